"""The logarithmic barrier: a row's worth plus log(1 - its largest cosine with the rows taken so far).

The barrier hardly tells rows apart that are unlike every taken row, and falls without end for copies of one. A distance
1 - cosine below `SLACK` counts as `SLACK`, so a copy has a finite key.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from greedyprune.checks import is_number
from greedyprune.ops.cosine import DOUBT, SLACK, UnitRows, cosine64
from greedyprune.ops.matching import largest_with_others
from greedyprune.ops.nearest import Nearest
from greedyprune.ops.picks import Picks, numbers
from greedyprune.ops.ranking import ranked

CLOSE = DOUBT
"""A float32 distance below this may belong to a copy."""
COPY = (math.log(1.5 * CLOSE) + math.log(SLACK)) / 2
"""The barrier of such a row, in the middle of what it may be."""
WIDE = (math.log(1.5 * CLOSE) - math.log(SLACK)) / 2
"""The error of `COPY`."""

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
    """Keys are worth + log(1 - the largest cosine with the taken rows). `weight`: the factor within worth."""

    def __init__(self, unit: UnitRows, k: int, worth: Tensor, weight: float) -> None:
        super().__init__(unit, k, worth)
        self.slack = SLACK / 2 * weight
        self.doubt, self.doubtful = self.worth[:0], self.bounds
        """(p,) the error bounds of the pool's keys, and those of every member's bounds."""

    def keys(self, worth: Tensor, cosines: Tensor) -> Tensor:
        """Keys by worth and largest cosine in float32. (r,), (..., r) -> (..., r)"""
        distance = 1 - cosines.double()
        return worth + torch.where(distance < CLOSE, COPY, distance.clamp_min(CLOSE).log())

    def errors(self, worth: Tensor, keys: Tensor) -> Tensor:
        """Error bounds of these keys: a cosine is known up to DOUBT / 2. (r,), (r,) -> (r,)"""
        # With an error e of a distance D >= 2 e, the logarithm moves by at most -log(1 - e / D) <= 1.4 e / D.
        return ((worth - keys).exp() * (0.7 * DOUBT)).clamp_max(WIDE) + self.slack

    def enter(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Store the members' bounds, and all error bounds. (p,), (p,) -> (p,)"""
        keys, worth = super().enter(rows, keys), self.worth[rows]
        self.doubt, self.doubtful = self.errors(worth, keys), self.errors(worth, torch.stack(self.bounds)).unbind()
        return keys

    def doubts(self, keys: Tensor) -> Tensor:
        """The error bounds of the pool's keys. (p,) -> (p,)"""
        return self.doubt

    def follow(self, keys: Tensor, place: int) -> Tensor:
        """Lower the keys to the bounds of the taken row. The lower a key, the larger its error. (p,) -> (p,)"""
        self.doubt = torch.maximum(self.doubt, self.doubtful[place])
        return super().follow(keys, place)

    def exact_keys(self, worth: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """Keys by worth and largest cosine in float64, and error bounds. (r,), (r,) -> (r,), (r,)"""
        distance = 1 - cosines
        return worth + distance.clamp_min(SLACK).log(), self.slack + SLACK / 2 * torch.where(
            distance > SLACK, distance.reciprocal(), 1.0
        )

    def exact_gains(self) -> list[float]:
        """The float64 key of each taken row, just before it was taken."""
        rows = self.x[torch.tensor(self.taken, device=self.x.device)]
        before = torch.ones(len(self.taken), len(self.taken), dtype=torch.bool, device=rows.device).tril(-1)
        largest = cosine64(rows, rows).masked_fill_(~before, -torch.inf).amax(1).cpu()
        keys, _ = self.exact_keys(self.worth[self.taken], largest)
        return [float(self.worth[row]) for row in self.taken[:1]] + [float(key) for key in keys[1:]]
