"""CPU time and device time, medians with their intervals, and thread counts."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
DRAWS = 2000
"""Draws of the bootstrap."""


@contextmanager
def threads_set(count: int) -> Iterator[None]:
    """Inside, torch uses `count` threads. The count before is restored at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_turn(works: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Median seconds of each. They run in turn, A B A B ..., so that a drift of the machine affects all equally."""
    times = [[_cpu(work) for work in works] for _ in range(runs)]
    return [statistics.median(mine) for mine in zip(*times, strict=True)]


def _cpu(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def median_of(values: Tensor) -> tuple[float, float, float]:
    """The median and its 95 % interval by bootstrap. (rounds,) -> median, low, high"""
    generator = torch.Generator().manual_seed(0)
    drawn = values[torch.randint(len(values), (DRAWS, len(values)), generator=generator)].quantile(0.5, dim=1)
    low, high = drawn.quantile(drawn.new_tensor([0.025, 0.975])).tolist()
    return round(float(values.quantile(0.5)), 4), round(low, 4), round(high, 4)


def clock_name(device: torch.device) -> str:
    """The time that `timed` measures on this device."""
    return "device time" if device.type == "cuda" else "process CPU time"


def timed(work: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """Run something and time it. -> its result, seconds of CPU time of all threads; on CUDA of the device's time"""
    if device.type != "cuda":
        begun = time.process_time()
        result = work()
        return result, time.process_time() - begun
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    first.record()
    result = work()
    last.record()
    torch.cuda.synchronize(device)
    return result, first.elapsed_time(last) / 1e3


def interleaved(
    works: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, seed: int = 0
) -> dict[str, Tensor]:
    """Time all of them in every round, in random order. -> seconds (rounds,) float64 by name"""
    order = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name in order.sample(sorted(works), len(works)):
            times[name].append(timed(works[name], device)[1])
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in times.items()}
