"""Ranking of computed values, in which values that differ only by rounding tie; a sample of it; and outliers."""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK


def ranked(values: Tensor) -> Tensor:
    """Places from the highest float64 value down, ties to the lowest place. (..., n) -> (..., n)

    Values that differ by no more than `SLACK` (above 1: by that share of them) are ties. A chain of them is one tie.
    """
    values = values.double()
    index = values.argsort(descending=True, stable=True)
    high = values.gather(-1, index)
    size = high[..., 1:].abs().clamp(1, 1e300)  # -inf is apart from every finite value
    tie = torch.zeros_like(index)
    tie[..., 1:] = (high[..., :-1] - high[..., 1:] > SLACK * size).cumsum(-1)
    return index.gather(-1, (tie * index.shape[-1] + index).argsort(-1))


def strided(ranking: Tensor, size: int) -> Tensor:
    """`size` rows of a ranking, at equal steps, in its order; all if there are fewer. (..., n) -> (..., size)"""
    n = ranking.shape[-1]
    size = min(n, size)
    return ranking[..., (2 * torch.arange(size, device=ranking.device) + 1) * n // (2 * max(size, 1))]


def outliers(values: Tensor) -> int:
    """The number of values above Q3 + 1.5 (Q3 - Q1), Q1 and Q3 their quartiles; at least 1. (n,) -> int"""
    values = values.double()
    low, high = values.quantile(0.25), values.quantile(0.75)
    return max(int((values > high + 1.5 * (high - low)).sum()), 1)
