"""Soft suppression by subtraction: take the row with the highest score, lower the scores of similar rows, and repeat.

A row's score is its first score minus a sum over the rows taken so far, but not below 0. It only falls, as `falling.py`
requires. Cosines are float32, and float64 decides near ties and which scores are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks
from greedyprune.ops.cosine import DOUBT, SLACK, UnitRows, cosine64, product
from greedyprune.ops.falling import Falling
from greedyprune.ops.nearest import pool_size
from greedyprune.ops.picks import Picks, numbers


def subtract(x: Tensor | UnitRows, score: Tensor, k: int, gamma: float, *, given: Tensor | None = None) -> Picks:
    """Take up to k rows, each with the highest score. After row s is taken with score g, every other score falls by

        g exp(-gamma (1 - cos(x_i, x_s))^2),

    but not below 0. (n, d), (n,) -> Picks

    Scores are 0 to 1. One of at most `SLACK` is 0, and no row with score 0 is taken, so there may be fewer than k.
    `given` rows are taken first, in their order, whatever their scores are. Gains are the scores of rows when they were
    taken. Ties (within `SLACK`) go to the lowest row. Cost O(k n d), memory O(n d), never an n x n matrix.
    """
    lowered = _Lowered(UnitRows.of(x), score, k, gamma)
    for row in numbers(given):
        lowered.give(row)
    lowered.run(k)
    return lowered.picks()


class _Lowered(Falling):
    """Keys are scores; -inf if a score is 0, and then the row is not alive."""

    def __init__(self, unit: UnitRows, score: Tensor, k: int, gamma: float) -> None:
        n = unit.x.shape[0]
        super().__init__(n, unit.x.device, *[pool_size(n, k)] * 2)
        self.x, self.units, self.gamma = unit.x, unit.all(), gamma
        self.score = score.double().cpu()
        self.lost = torch.zeros_like(self.score)
        """(n,) what each row lost by the first `updated` taken rows, by float32 cosines."""
        self.doubt = torch.full_like(self.score, SLACK / 2)
        """(n,) the error bound of that."""
        self.updated = 0
        self.worth = torch.empty_like(self.score)
        """(n,) the float64 scores of the first `known` taken rows when they were taken, in their order."""
        self.known = 0
        # What each row lost in float64, and the number of taken rows it covers: each pair is computed at most once.
        self.exact = torch.zeros_like(self.score)
        self.seen = torch.zeros(n, dtype=torch.int64, device="cpu")
        self.members, self.errors = self.seen[:0], self.doubt[:0]
        self.shares = self.share_errors = torch.empty(0, 0, dtype=torch.float64, device="cpu")

    def give(self, row: int) -> None:
        """Take a row, whatever its score is."""
        self._take(row, 0.0)

    def picks(self) -> Picks:
        """The rows taken. Gains are their float64 scores."""
        self._settle_taken()
        gains = [float(worth) for worth in self.worth[: self.known]]
        return Picks.of(self.taken, gains, self.device)

    def update(self) -> tuple[Tensor, Tensor]:
        """Keys of all rows by float32 cosines with the rows taken since the last update. -> (n,), (n,)"""
        self._settle_taken()
        new = torch.arange(self.updated, self.known, device="cpu")
        for some in in_blocks(new, self.units.shape[0]) if new.numel() else ():
            taken = torch.tensor([self.taken[place] for place in numbers(some)], device=self.device)
            shares, doubts = self._shares(product(self.units[taken], self.units).cpu())
            self.lost += self.worth[some] @ shares
            self.doubt += self.worth[some] @ doubts
        self.updated = self.known
        keys, errors = self._floored(None, self.score - self.lost, self.doubt)
        self.alive.logical_and_(keys > -torch.inf)
        return keys, errors

    def settle(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of some rows by float64 cosines. (r,) -> (r,), ()"""
        self._settle_taken()
        keys = self.score[rows] - self._lost(rows)
        return keys.masked_fill(keys <= SLACK, -torch.inf), torch.tensor(SLACK / 2, dtype=torch.float64, device="cpu")

    def leave(self) -> None:
        """Do nothing: every update starts a new pool."""

    def enter(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Store by how much each member would lower the others. (p,), (p,) -> (p,)"""
        units = self.units[rows.to(self.device)]
        self.shares, self.share_errors = self._shares(product(units, units).cpu())
        self.members, self.errors = rows, self.doubt[rows]
        return keys

    def doubts(self, keys: Tensor) -> Tensor:
        """The error bounds of the pool's keys. (p,) -> (p,)"""
        return self.errors

    def follow(self, keys: Tensor, place: int) -> Tensor:
        """Lower the keys by the taken row's, whose own error adds to theirs. (p,) -> (p,)"""
        gain, error = float(keys[place]), float(self.errors[place])
        shares, doubts = self.shares[place], self.share_errors[place]
        errors = self.errors.add(doubts, alpha=gain + error).add_(shares, alpha=error)
        keys = keys.sub(shares, alpha=gain)
        keys[place] = -torch.inf
        keys, self.errors = self._floored(self.members, keys, errors)
        return keys

    def _shares(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """The share of a taken row's score by which others fall, and its error by float32 cosines. -> 2 x (...)"""
        gap = (1 - cosines.double()).clamp_min(0)
        shares = (gap.square() * -self.gamma).exp()
        # A cosine's error e is at most DOUBT / 2. The slope of exp(-c x^2) is 2 c x exp(-c x^2), and changes by 2 c e.
        return shares, shares * gap * (self.gamma * DOUBT) + self.gamma * DOUBT**2 / 4

    def _floored(self, rows: Tensor | None, keys: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Keys with -inf for scores of 0, and error bounds. Float64 tells which are 0. (r,), (r,) -> (r,), (r,)"""
        unsure = ((keys - SLACK).abs() <= errors).nonzero()[:, 0]
        if unsure.numel():
            keys, errors = keys.clone(), errors.clone()
            keys[unsure], errors[unsure] = self.settle(unsure if rows is None else rows[unsure])
        return keys.masked_fill(keys <= SLACK, -torch.inf), errors

    def _settle_taken(self) -> None:
        """Compute the float64 scores of the rows taken since the last call."""
        rows = torch.tensor(self.taken[self.known :], device="cpu")
        if not rows.numel():
            return
        score, here = self.score[rows] - self._lost(rows), self.x[rows.to(self.device)]
        among, first = self._shares(cosine64(here, here).cpu())[0], self.known
        for place in range(rows.shape[0]):
            self.worth[first + place] = gain = score[place].clamp_min(0)
            score[place + 1 :] -= gain * among[place, place + 1 :]
        self.known += rows.shape[0]

    def _lost(self, rows: Tensor) -> Tensor:
        """What some rows lost by the first `known` taken rows, by float64 cosines. (r,) -> (r,)"""
        # Rows with results of the same age are updated together.
        for since in sorted(set(numbers(self.seen[rows])) - {self.known}):
            behind = rows[self.seen[rows] == since]
            new = self.x[torch.tensor(self.taken[since : self.known], device=self.device)]
            for some in in_blocks(behind, max(new.shape)):
                shares, _ = self._shares(cosine64(self.x[some.to(self.device)], new).cpu())
                self.exact[some] += shares @ self.worth[since : self.known]
        self.seen[rows] = self.known
        return self.exact[rows]
