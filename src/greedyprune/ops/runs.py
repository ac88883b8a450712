"""Runs of neighbouring tokens in the sequence, and the worth of each run."""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.cosine import cosine64


def even_runs(n: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The run of every token, for count <= n runs whose lengths differ by at most one. -> (n,)"""
    return torch.arange(n, device=device) * count // n


def run_worth(x: Tensor, attention: Tensor, run: Tensor, weight: float) -> Tensor:
    """Each run's mean of a_i / mean(a) + weight v_i / mean(v), means over all tokens. (n, d), 2 x (n,) -> (runs,)

    v_i is the variance of the cosines of row i with all rows of its run, including itself. If the mean of a term is 0,
    the term is 0. In float64.
    """
    sizes = run.bincount()
    variance = [_variance(x[run == number]) for number in range(sizes.shape[0])]
    score = _of_mean(attention.double()) + weight * _of_mean(torch.cat(variance))
    return torch.zeros(sizes.shape[0], dtype=torch.float64, device=x.device).index_add_(0, run, score) / sizes


def _variance(x: Tensor) -> Tensor:
    """The variance of each row's cosines with all rows. (r, d) -> (r,)"""
    return cosine64(x, x).var(1, correction=0)


def _of_mean(values: Tensor) -> Tensor:
    """Values in units of their mean. (n,) -> (n,)"""
    mean = values.mean()
    return torch.where(mean > 0, values / torch.where(mean > 0, mean, 1.0), 0.0)
