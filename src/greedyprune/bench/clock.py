"""Thread CPU time, which other work on the machine moves least; and medians of two that run in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def in_turn(theirs: Callable[[], object], ours: Callable[[], object], runs: int) -> tuple[float, float]:
    """Median seconds of both, A B A B ..., so that a drift of the machine meets both alike."""
    a, b = list[float](), list[float]()
    for _ in range(runs):
        a.append(_cpu(theirs))
        b.append(_cpu(ours))
    return statistics.median(a), statistics.median(b)


def _cpu(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
