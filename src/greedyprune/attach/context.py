"""Which call runs now. It is a context variable, never on the model, so threads do not meet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from torch import nn

CALL: ContextVar[Any] = ContextVar("greedyprune_call", default=None)
"""The `Call` of the forward that runs now, None outside the forward of a pruned model."""

TRIAL: ContextVar[Any] = ContextVar("greedyprune_trial", default=None)
"""The run of a self-test (`selftest.py`) that is under way, None otherwise."""


def callers(*methods: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose methods of these names this thread is in, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name in methods and code.co_argcount:
            first = frame.f_locals.get(code.co_varnames[0])
            if isinstance(first, nn.Module):
                yield code.co_name, first
        frame = frame.f_back
