"""Thread CPU time, which other work on the machine moves least; medians of two that run in turn; thread counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_set(count: int) -> Iterator[None]:
    """So many threads inside; the count is put back at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
