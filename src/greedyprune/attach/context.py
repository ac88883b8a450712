"""Which call runs now. It is a context variable, never on the model, so threads do not meet."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

CALL: ContextVar[Any] = ContextVar("greedyprune_call", default=None)
"""The `Call` of the forward that runs now, None outside the forward of a pruned model."""

TRIAL: ContextVar[Any] = ContextVar("greedyprune_trial", default=None)
"""The run of a self-test (`selftest.py`) that is under way, None otherwise."""

DRAFTS: ContextVar[int] = ContextVar("greedyprune_drafts", default=0)
"""How many tokens at the end of the forward that starts now are guesses of an assistant, and no prompt."""
