"""Thread CPU time, medians of two functions that run in turn, and thread counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_set(count: int) -> Iterator[None]:
    """Inside, torch uses `count` threads. The count before is restored at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_turn(theirs: Callable[[], object], ours: Callable[[], object], runs: int) -> tuple[float, float]:
    """Median seconds of both. They run in turn, A B A B ..., so that a drift of the machine affects both equally."""
    a, b = list[float](), list[float]()
    for _ in range(runs):
        a.append(_cpu(theirs))
        b.append(_cpu(ours))
    return statistics.median(a), statistics.median(b)


def _cpu(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
