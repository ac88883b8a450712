"""Farthest first, marginal relevance and the log barrier on a device: each pick has the highest key of its image.

A key depends on a row's worth and on its largest cosine with the rows taken. The rules, their ties and the first picks
are those of `ops/farthest.py`, `ops/marginal.py` and `ops/barrier.py`. Cost: O(k n d), or O(n^2 d) if n <= d, in
float64, for all images together; `chosen.py` says who makes the picks. Memory: O(n d) per image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK
from greedyprune.ops.kernels.chosen import falling
from greedyprune.ops.kernels.loops import Barrier, Linear, lowest
from greedyprune.ops.kernels.pairs import Pairs


def farthest_first(units: Tensor, k: int, *, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Farthest-first traversal of each image. (b, n, d), (b, p) -> rows (b, k), distances (b, k)"""
    pairs = Pairs(units)
    nearest = pairs.nearest_other()
    first = lowest(nearest <= nearest.amin(1, keepdim=True) + SLACK) if given is None else given
    gain = 1 - nearest.gather(1, first[:, :1])
    order, keys = falling(pairs, first, k, Linear(torch.zeros_like(nearest), 1.0))
    return order, torch.cat([gain, 1 + keys], 1)


def marginal_relevance(
    units: Tensor, worth: Tensor, k: int, trade: float, *, given: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Maximal marginal relevance in each image. (b, n, d), (b, n), (b, p) -> rows (b, k), values (b, k)"""
    worth = trade * worth
    first = lowest(worth >= worth.amax(1, keepdim=True) - SLACK) if given is None else given
    order, keys = falling(Pairs(units), first, k, Linear(worth, 1 - trade))
    return order, torch.cat([worth.gather(1, first[:, :1]), keys], 1)


def log_barrier(
    units: Tensor, worth: Tensor, k: int, weight: float, *, given: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The rule of the log barrier in each image. (b, n, d), (b, n), (b, p) -> rows (b, k), values (b, k)"""
    first = lowest(worth >= worth.amax(1, keepdim=True) - SLACK) if given is None else given
    worth = weight * worth
    order, keys = falling(Pairs(units), first, k, Barrier(worth, weight))
    return order, torch.cat([worth.gather(1, first[:, :1]), keys], 1)
