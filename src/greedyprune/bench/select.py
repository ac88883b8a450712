"""Time of GreedyPrune's selection, against the loop that research code usually writes for it.

Both get the same rows, text row, threshold and budget and must return the same tokens in the same order; they run in
turn, and thread CPU time is compared, which other work on the machine moves least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from greedyprune.bench.clock import in_turn, threads_set
from greedyprune.bench.features import image_like
from greedyprune.choosing import select
from greedyprune.cues import Cues
from greedyprune.methods.greedyprune import GreedyPrune
from greedyprune.ops.cosine import saliency
from greedyprune.ops.suppression import suppress

SIZES = ((576, 64, 1024), (576, 192, 1024), (576, 64, 4096), (576, 192, 4096), (2880, 320, 1024), (2880, 320, 4096))
LARGE = ((10000, 1000, 1024), (10000, 1000, 4096))
"""Sizes of long videos. The baseline alone takes minutes there."""
REGIMES = ("loose", "bind", "refill")
RUNS = 7


@dataclass(frozen=True)
class Row:
    """One measured case."""

    tokens: int
    kept: int
    width: int
    regime: str
    """loose: few tokens are passed over; bind: 60 % of all are looked at; refill: the rule finds 60 % of the budget."""
    tau: float
    visited: int
    """Tokens looked at until the budget was reached."""
    usual_ms: float
    greedyprune_ms: float
    ratio: float
    """usual / greedyprune, medians of thread CPU time."""
    equal: bool
    """True if both returned the same tokens in the same order.

    Near tau they may differ: the loop decides in float32.
    """
    exact: bool
    """True if ours are the tokens of the same loop in float64."""
    runs: int
    threads: int

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def usual_loop(x: Tensor, t: Tensor, tau: float, k: int) -> list[int]:
    """The baseline: the whole matrix of cosines, then one host synchronisation per kept token. (n, d), (d,) -> rows"""
    x = torch.nn.functional.normalize(x, dim=-1)
    similarity = x @ x.T
    worth = x @ torch.nn.functional.normalize(t, dim=-1)
    active = torch.ones_like(worth, dtype=torch.bool)
    chosen: list[int] = []
    while len(chosen) < k and bool(active.any()):
        best = int(worth.masked_fill(~active, -torch.inf).argmax().item())
        chosen.append(best)
        active[best] = False
        active &= similarity[best] <= tau
    for i in worth.argsort(descending=True).tolist():
        if len(chosen) == k:
            break
        if i not in chosen:
            chosen.append(i)
    return chosen


def measure(
    sizes: tuple[tuple[int, int, int], ...] = SIZES, runs: int = RUNS, threads: int = 1, seed: int = 0
) -> Iterator[Row]:
    """Measure every size in every regime. The thread count is put back at the end."""
    with threads_set(threads):
        for n, k, d in sizes:
            x, t = image_like(n, d, seed)
            for regime in REGIMES:
                yield _case(x, t, k, regime, runs, threads)


def _case(x: Tensor, t: Tensor, k: int, regime: str, runs: int, threads: int) -> Row:
    tau, visited = threshold_of(x, t, k, regime)
    method, cues = GreedyPrune(tau=tau), Cues(x, text=t[None])
    found = select(method, cues, k).order.tolist()  # the first call of each is not counted
    expected = usual_loop(x, t, tau, k)
    a, b = in_turn(lambda: usual_loop(x, t, tau, k), lambda: select(method, cues, k), runs)
    return Row(
        tokens=x.shape[0],
        kept=k,
        width=x.shape[1],
        regime=regime,
        tau=round(tau, 6),
        visited=visited,
        usual_ms=round(1e3 * a, 3),
        greedyprune_ms=round(1e3 * b, 3),
        ratio=round(a / b, 2),
        equal=found == expected,
        exact=found == expected or found == usual_loop(x.double(), t.double(), tau, k),
        runs=runs,
        threads=threads,
    )


def threshold_of(x: Tensor, t: Tensor, k: int, regime: str) -> tuple[float, int]:
    """Find the threshold for a regime by bisection. -> threshold, tokens looked at"""
    n = x.shape[0]
    _, order = saliency(x, t[None])

    def at(tau: float) -> tuple[int, int]:
        """The numbers of tokens taken and looked at."""
        taken = suppress(x, order, tau, k).order
        return taken.shape[0], n if taken.shape[0] < k else int((order == taken[-1]).nonzero()[0, 0]) + 1

    low, high = -1.0, 1.0
    for _ in range(16):
        tau = (low + high) / 2
        taken, visited = at(tau)
        enough = {"loose": visited <= 1.25 * k, "bind": visited <= 0.6 * n, "refill": taken >= 0.6 * k}[regime]
        low, high = (low, tau) if enough else (tau, high)
    return high, at(high)[1]
