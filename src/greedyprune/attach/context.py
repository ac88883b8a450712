"""Which call runs now. It is a context variable, never on the model, so threads do not meet."""

from __future__ import annotations

import sys
import threading
import time
from contextvars import ContextVar
from typing import Any

from torch import nn

CALL: ContextVar[Any] = ContextVar("greedyprune_call", default=None)
"""The `Call` of the forward that runs now, None outside the forward of a pruned model."""

TRIAL: ContextVar[Any] = ContextVar("greedyprune_trial", default=None)
"""The run of a self-test (`selftest.py`) that is under way, None otherwise."""


def wait_until_idle(module: nn.Module) -> None:
    """Return once no thread runs a forward of this module. Raises RuntimeError if this thread itself does.

    The threads' own stacks are asked: a forward that an interrupt ended is on none of them.
    """
    while running := [thread for thread, frame in sys._current_frames().items() if _runs(module, frame)]:
        if threading.get_ident() in running:
            raise RuntimeError("the pruning cannot be removed inside a forward of the model: call remove() after it.")
        time.sleep(0.001)


def _runs(module: nn.Module, frame: Any) -> bool:
    """Whether a stack holds a call of this module."""
    code = nn.Module._call_impl.__code__
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("self") is module:
            return True
        frame = frame.f_back
    return False
