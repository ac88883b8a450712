"""Farthest first, marginal relevance and the log barrier on a device: each pick has the highest key of its image.

A key depends on a row's worth and on its largest cosine with the rows taken. The rules, their ties and the first picks
are those of `ops/farthest.py`, `ops/marginal.py` and `ops/barrier.py`. Cost: O(k n d), or O(n^2 d) if n <= d, in
float64; some ten operations per pick for all images together. Memory: O(n d) per image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK
from greedyprune.ops.kernels.pairs import Pairs

Rule: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor | float]]
"""Keys, and their error bounds, by the largest cosines with the rows taken. (b, n) -> (b, n), (b, n) or a number"""


def farthest_first(units: Tensor, k: int, *, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Farthest-first traversal of each image. (b, n, d), (b, p) -> rows (b, k), distances (b, k)"""
    pairs = Pairs(units)
    nearest = pairs.nearest_other()
    first = _first(nearest <= nearest.amin(1, keepdim=True) + SLACK) if given is None else given
    gain = 1 - nearest.gather(1, first[:, :1])
    order, keys = _picked(pairs, first, k, lambda largest: (-largest, SLACK / 2))
    return order, torch.cat([gain, 1 + keys], 1)


def marginal_relevance(
    units: Tensor, worth: Tensor, k: int, trade: float, *, given: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Maximal marginal relevance in each image. (b, n, d), (b, n), (b, p) -> rows (b, k), values (b, k)"""
    worth = trade * worth
    first = _first(worth >= worth.amax(1, keepdim=True) - SLACK) if given is None else given
    order, keys = _picked(Pairs(units), first, k, lambda largest: (worth - (1 - trade) * largest, SLACK / 2))
    return order, torch.cat([worth.gather(1, first[:, :1]), keys], 1)


def log_barrier(
    units: Tensor, worth: Tensor, k: int, weight: float, *, given: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The rule of the log barrier in each image. (b, n, d), (b, n), (b, p) -> rows (b, k), values (b, k)"""
    first = _first(worth >= worth.amax(1, keepdim=True) - SLACK) if given is None else given
    worth = weight * worth

    def rule(largest: Tensor) -> tuple[Tensor, Tensor]:
        distance = (1 - largest).clamp_min(SLACK)
        # The error of a distance above SLACK grows in its logarithm; one that counts as SLACK is a copy's.
        errors = torch.where(distance > SLACK, SLACK / 2 / distance, SLACK / 2)
        return worth + distance.log(), errors + SLACK / 2 * weight

    order, keys = _picked(Pairs(units), first, k, rule)
    return order, torch.cat([worth.gather(1, first[:, :1]), keys], 1)


def _first(best: Tensor) -> Tensor:
    """The lowest row that may be the best. (b, n) bool -> (b, 1)"""
    return best.to(torch.uint8).argmax(1, keepdim=True)


def _picked(pairs: Pairs, first: Tensor, k: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Take the first rows of each image, then always the lowest of those whose keys may be the highest.

    (b, p), p >= 1 -> rows (b, k), and the keys of all but the first of them when they were taken (b, k - 1)
    """
    rows, keys = [first[:, :1]], list[Tensor]()
    largest = pairs.of(first[:, 0])
    taken = torch.zeros_like(largest, dtype=torch.bool).scatter_(1, first[:, :1], True)
    for step in range(1, k):
        key, error = rule(largest)
        if step < first.shape[1]:
            row = first[:, step : step + 1]
        else:
            free = key.masked_fill(taken, -torch.inf)
            row = _first(free + error >= (free - error).amax(1, keepdim=True))
        rows.append(row)
        keys.append(key.gather(1, row))
        taken = taken.scatter(1, row, True)
        largest = torch.maximum(largest, pairs.of(row[:, 0]))
    return torch.cat(rows, 1), torch.cat([*keys, largest[:, :0]], 1)
