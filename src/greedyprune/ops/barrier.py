"""The logarithmic barrier: a row's worth plus log(1 - its largest cosine with the rows taken so far).

The barrier hardly tells rows apart that are unlike every taken row, and falls without end for copies of one. A distance
1 - cosine below `SLACK` counts as `SLACK`, so a copy has a finite key.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.checks import is_number
from greedyprune.ops.cosine import DOUBT, SLACK, UnitRows, cosine64, pairs64
from greedyprune.ops.matching import largest_with_others
from greedyprune.ops.nearest import Nearest
from greedyprune.ops.picks import Picks, numbers, reals
from greedyprune.ops.ranking import ranked

FEW = 4
"""Up to so many pairs a row, single products of pairs are faster than one matrix of them all."""
LARGEST = 1e6
"""The largest weight. It is top-k of saliencies 3e-5 apart; a larger one would make ties of values that float64 tells
apart."""


def check_weight(name: str, weight: float) -> None:
    """Raise ValueError unless the weight of worth against the barrier is a number from 0 to `LARGEST`."""
    if not is_number(weight, 0, LARGEST):
        raise ValueError(f"{name}={weight!r} is no weight: write a number from 0 to {LARGEST:g}.")


def log_barrier(x: Tensor | UnitRows, worth: Tensor, k: int, weight: float, *, given: Tensor | None = None) -> Picks:
    """Take the row of the highest worth w_i, then each with the largest value

        weight w_i + log(1 - max_{s taken} cos(x_i, x_s)).

    (n, d), (n,) -> Picks

    `given` rows are taken first, in their order, and replace the first pick. Gains are those values in float64; the
    first has no barrier. Worth and cosines are known up to `SLACK` / 2 in float64, so values whose ranges meet tie, and
    ties go to the lowest row. Cosines are float32, and float64 decides near ties. Cost O(k n d), memory O(n d).
    """
    unit = UnitRows.of(x)
    worth = worth.double().cpu()
    barrier = _Barrier(unit, k, weight * worth, weight)
    for row in numbers(given) or [int((worth >= worth.max() - SLACK).to(torch.uint8).argmax())]:
        barrier.give(row)
    barrier.run(k)
    return Picks.of(barrier.taken, barrier.exact_gains(), unit.x.device)


def isolated_first(x: Tensor, worth: Tensor, k: int) -> Picks:
    """Take rows as `log_barrier` does with weight 1, but first the one with the largest

        w_i + log(1 - max_{j other} cos(x_i, x_j)).

    (n, d), (n,) -> Picks
    """
    alone = (1 - largest_with_others(x)).clamp_min(SLACK).log()
    return log_barrier(x, worth, k, 1.0, given=ranked(worth + alone)[:1])


class _Barrier(Nearest):
    """Keys are exp(worth) (1 - the largest cosine with the taken rows), as shares of exp(the highest worth left).

    They rank rows as worth + log(1 - cosine) does, and a cosine's error is an error of the key, the same for any
    cosine. A share too small for float32 is 0, and exact keys decide between such rows. Exact keys are logarithms.
    `weight`: the factor within worth.
    """

    def __init__(self, unit: UnitRows, k: int, worth: Tensor, weight: float) -> None:
        super().__init__(unit, k, worth)
        self.slack = SLACK / 2 * weight
        self.highest = worth.max()

    def update(self) -> tuple[Tensor, Tensor]:
        """Keys of all rows by float32 cosines. Every update starts a new pool, so its shares may be new. -> 2 x (n,)"""
        if bool(self.alive.any()):
            self.highest = self.worth[self.alive].max()
        return super().update()

    def keys(self, worth: Tensor, cosines: Tensor) -> Tensor:
        """Keys by worth and largest cosine in float32. (r,), (..., r) -> (..., r)"""
        return (1 - cosines).clamp_min_(DOUBT / 2 + SLACK).mul_(self._shares(worth))

    def errors(self, worth: Tensor) -> Tensor:
        """Error bounds of the keys of this worth: a distance is at most 2, and known up to DOUBT / 2. (r,) -> (r,)"""
        return self._shares(worth) * (DOUBT / 2 + 3 * self.slack)

    def _shares(self, worth: Tensor) -> Tensor:
        """exp(worth) as shares of the highest that may still be taken. (r,) -> (r,) float32"""
        return (worth - self.highest).clamp_max(0).exp().float()

    def exact_keys(self, worth: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of keys by worth and largest cosine in float64, and error bounds. (r,), (r,) -> (r,), (r,)"""
        distance = 1 - cosines
        return worth + distance.clamp_min(SLACK).log(), self.slack + SLACK / 2 * torch.where(
            distance > SLACK, distance.reciprocal(), 1.0
        )

    def exact_gains(self) -> list[float]:
        """The exact key of each taken row, just before it was taken; the first has its worth."""
        taken, worth = torch.tensor(self.taken, device=self.x.device), self.worth[self.taken]
        before = torch.ones(len(taken), len(taken), dtype=torch.bool, device=taken.device).tril(-1)
        x, cosines = self.x[taken], self._cosines(taken, taken).masked_fill_(~before, -torch.inf)
        # Float32 finds the rows that may be the most similar ones: one for most rows, many among copies.
        rows, near = (before & (cosines >= cosines.amax(1, keepdim=True) - DOUBT)).nonzero(as_tuple=True)
        if len(rows) <= FEW * len(taken):
            exact = torch.full_like(worth, -1.0, device=x.device)
            largest = exact.scatter_reduce_(0, rows, pairs64(x, rows, near), "amax")
        else:
            largest = cosine64(x, x).masked_fill_(~before, -torch.inf).amax(1)
        keys, _ = self.exact_keys(worth, largest.cpu())
        return reals(torch.cat([worth[:1], keys[1:]]))
