"""How well a few rows span the others: rows that lie far apart, and what a linear combination of them misses."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK

TINY = torch.finfo(torch.float64).tiny


def far_apart(x: Tensor, count: int, *, first: int | None = None) -> Tensor:
    """`count` rows by farthest-first traversal of Euclidean distances. (n, d), 0 < count <= n -> (count,)

    The first is the row farthest from the mean row, unless `first` names it; the next is the one farthest from those
    taken. Squared distances that differ by less than `SLACK` of the largest tie, and ties go to the lowest row.
    Float64; cost O(count n d).
    """
    x = _scaled(x)
    taken = [_first((x - x.mean(0)).square().sum(1)) if first is None else first]
    free = torch.ones_like(x[:, 0], dtype=torch.bool)
    left = torch.full_like(x[:, 0], torch.inf)
    while len(taken) < count:
        free[taken[-1]] = False
        left = torch.minimum(left, (x - x[taken[-1]]).square().sum(1))
        taken.append(_first(left.masked_fill(~free, -1.0)))
    return torch.tensor(taken, dtype=torch.int64, device=x.device)


def missed(x: Tensor, basis: Tensor, ridge: float) -> Tensor:
    """The length of what the nearest combination of the basis rows leaves of each row. (n, d), (c,) rows -> (n,)

    The combination of row x_i is w B, w = (B B^T + ridge I)^-1 B x_i, B the basis. The ridge is at least 1e-12 of the
    longest basis row's square, so that equal rows do no harm. Float64; cost O(n c d).
    """
    largest = x.double().abs().max().clamp_min(TINY)
    x = _scaled(x)
    chosen = x[basis]
    gram = chosen @ chosen.T
    least = torch.maximum(ridge / largest / largest, 1e-12 * gram.diagonal().max()).clamp(TINY, 1 / TINY)
    gram.diagonal().add_(least)
    weights = cast("Tensor", cast("Any", torch.linalg).solve(gram, chosen @ x.T))
    return (x - weights.T @ chosen).square().sum(1).sqrt() * largest


def _scaled(x: Tensor) -> Tensor:
    """The rows in units of the largest entry, so that squares are finite. (n, d) -> (n, d) float64"""
    x = x.double()
    return x / x.abs().max().clamp_min(TINY)


def _first(values: Tensor) -> int:
    """The lowest place of the largest value. (n,) -> int"""
    return int((values >= values.max() * (1 - SLACK)).to(torch.uint8).argmax())
