"""The scans of the engines in torch's operations, some ten of them per pick: what a kernel has to equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK
from greedyprune.ops.kernels.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Linear:
    """The key of a row is its worth minus a multiple of its largest cosine with the rows taken."""

    worth: Tensor
    """(b, n) float64"""
    factor: float

    def keys(self, largest: Tensor) -> tuple[Tensor, Tensor | float]:
        """Keys, and their error bound, by the largest cosines. (b, n) -> (b, n), a number"""
        return self.worth - self.factor * largest, SLACK / 2


@dataclass(frozen=True, eq=False)
class Barrier:
    """The key of a row is its worth plus the logarithm of its distance from the closest row taken."""

    worth: Tensor
    """(b, n) float64"""
    factor: float
    """The weight within worth."""

    def keys(self, largest: Tensor) -> tuple[Tensor, Tensor | float]:
        """Keys, and their error bounds, by the largest cosines. (b, n) -> (b, n), (b, n)"""
        distance = (1 - largest).clamp_min(SLACK)
        # The error of a distance above SLACK grows in its logarithm; one that counts as SLACK is a copy's.
        errors = torch.where(distance > SLACK, SLACK / 2 / distance, SLACK / 2)
        return self.worth + distance.log(), errors + SLACK / 2 * self.factor


Rule: TypeAlias = Linear | Barrier


def falling(pairs: Pairs, first: Tensor, k: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Take the first rows of each image, then always the lowest of those whose keys may be the highest.

    (b, p), 1 <= p <= k <= n -> rows (b, k), and the keys of all but the first of them when they were taken (b, k - 1)
    """
    rows, keys = [first[:, :1]], list[Tensor]()
    largest = pairs.of(first[:, 0])
    taken = torch.zeros_like(largest, dtype=torch.bool).scatter_(1, first[:, :1], True)
    for step in range(1, k):
        key, error = rule.keys(largest)
        if step < first.shape[1]:
            row = first[:, step : step + 1]
        else:
            free = key.masked_fill(taken, -torch.inf)
            row = lowest(free + error >= (free - error).amax(1, keepdim=True))
        rows.append(row)
        keys.append(key.gather(1, row))
        taken = taken.scatter(1, row, True)
        largest = torch.maximum(largest, pairs.of(row[:, 0]))
    return torch.cat(rows, 1), torch.cat([*keys, largest[:, :0]], 1)


def lowest(best: Tensor) -> Tensor:
    """The lowest row that may be the best. (b, n) bool -> (b, 1)"""
    return best.to(torch.uint8).argmax(1, keepdim=True)


def suppressing(
    pairs: Pairs, rank: Tensor, given: Tensor, bound: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take the given rows of each image, then always the first of its ranking that no row taken is too similar to.

    Similar: a cosine above `bound`. Once no such row is left, take the first of the ranking that is.
    Places in the ranking (b, n), (b, p), (b, 1), p <= k <= n -> four results of each image:

    rows (b, k);
    whether the rule or `given` took them (b, k) bool;
    the row that each row was first passed over for, -1 if there is none (b, n);
    the largest cosine between two rows of the rule or given, -1 if there are fewer than two (b,).
    """
    n = rank.shape[1]
    # A row that may be taken has its rank, one that was passed over its rank + n, and one that was taken 3 n.
    state = rank.scatter(1, given, 3 * n)
    by, closest = torch.full_like(rank, -1), torch.full_like(pairs.units[:, :, 0], -1.0)
    rows, own, pairwise = list[Tensor](), list[Tensor](), [closest[:, :1]]
    for step in range(k):
        if step < given.shape[1]:
            row = given[:, step : step + 1]
            mine = torch.ones_like(row, dtype=torch.bool)
        else:
            place, row = state.min(1, keepdim=True)
            mine = place < n
        cosines = pairs.of(row[:, 0])
        state = state.scatter(1, row, 3 * n)
        hit = (cosines > bound) & (state < n)
        by, state = torch.where(hit, row, by), torch.where(hit, state + n, state)
        pairwise.append(torch.where(mine, closest.gather(1, row), -1.0))
        closest = torch.where(mine, torch.maximum(closest, cosines), closest)
        rows.append(row)
        own.append(mine)
    return torch.cat(rows, 1), torch.cat(own, 1), by, torch.cat(pairwise, 1).amax(1)
