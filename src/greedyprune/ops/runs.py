"""Runs of neighbouring tokens in the sequence, the worth of each run, and its budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from greedyprune.ops.cosine import cosine64
from greedyprune.ops.split import split


def even_runs(n: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The run of every token, for count <= n runs: the first ones are one longer if they cannot be equal. -> (n,)"""
    length, longer = divmod(n, count)
    lengths = torch.tensor([length + 1] * longer + [length] * (count - longer), device=device)
    return torch.arange(count, device=device).repeat_interleave(lengths)


def run_budgets(k: int, shares: Sequence[float], room: Sequence[int]) -> list[int]:
    """Divide k: whole parts of each share, then one more for each of the largest shares. (runs,), (runs,) -> (runs,)

    What full runs cannot take goes to the others, by largest remainder. Ties go to the first run.
    """
    parts = [math.floor(k * share) for share in shares]
    for run in sorted(range(len(parts)), key=lambda run: -shares[run])[: k - sum(parts)]:
        parts[run] += 1
    parts = [min(part, limit) for part, limit in zip(parts, room, strict=True)]
    free = [limit - part for part, limit in zip(parts, room, strict=True)]
    more = split(k - sum(parts), shares, at_most=free)
    return [part + extra for part, extra in zip(parts, more, strict=True)]


def run_worth(x: Tensor, attention: Tensor, run: Tensor, weight: float) -> Tensor:
    """Each run's mean of a_i / mean(a) + weight v_i / mean(v), means over all tokens. (n, d), 2 x (n,) -> (runs,)

    v_i is the variance of the cosines of row i with all rows of its run, including itself. If the mean of a term is 0,
    the term is 0. In float64. If the weight is 0, no row is read.
    """
    sizes = run.bincount()
    score = _of_mean(attention.double())
    if weight:
        variance = [_variance(x[run == number]) for number in range(sizes.shape[0])]
        score = score + weight * _of_mean(torch.cat(variance))
    return torch.zeros(sizes.shape[0], dtype=torch.float64, device=x.device).index_add_(0, run, score) / sizes


def _variance(x: Tensor) -> Tensor:
    """The variance of each row's cosines with all rows. (r, d) -> (r,)"""
    return cosine64(x, x).var(1, correction=0)


def _of_mean(values: Tensor) -> Tensor:
    """Values in units of their mean. (n,) -> (n,)"""
    mean = values.mean()
    return torch.where(mean > 0, values / torch.where(mean > 0, mean, 1.0), 0.0)
