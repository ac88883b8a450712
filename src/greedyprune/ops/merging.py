"""Merge weights: a matrix that makes each kept row a sum or a mean of rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from greedyprune.keep import Keep


def alone(rows: Tensor, n: int) -> Tensor:
    """Weights that leave each of these rows as it is. (k,) -> (k, n)"""
    return torch.zeros(rows.shape[0], n, device=rows.device).scatter_(1, rows[:, None], 1.0)


def cluster_means(of: Tensor, count: int) -> Tensor:
    """Weights of the mean of each cluster. A row with -1 has no cluster; an empty cluster is 0. (n,) -> (count, n)"""
    member = (of == torch.arange(count, device=of.device)[:, None]).float()
    return member / member.sum(1, keepdim=True).clamp_min(1)


def weighted_sums(members: Tensor, worth: Tensor) -> Tensor:
    """Weights of sums of rows, each row times its worth. (k, r) distinct rows, (n,) -> (k, n) float64"""
    weights = worth.new_zeros(members.shape[0], worth.shape[0], dtype=torch.float64)
    return weights.scatter_(1, members, worth.double()[members])


def normalised(weights: Tensor) -> Tensor:
    """Scale the weights of each row to sum 1. A row of zeros stays. (k, n) -> (k, n)"""
    total = weights.sum(1, keepdim=True)
    return weights / torch.where(total > 0, total, 1)


def evenly(rows: Tensor, count: int) -> Tensor:
    """`count` of these rows, evenly spread over the list, with the first one. (r,), count <= r -> (count,)"""
    return rows[torch.arange(count, device=rows.device) * rows.shape[0] // max(count, 1)]


def merged(order: Tensor, gains: Tensor, weights: Tensor) -> Keep:
    """Make a decision with merge weights. Row i of them is the row at order[i]. (k,), (k,), (k, n) -> Keep"""
    keep = Keep.from_order(order, gains, weights.shape[1])
    return replace(keep, weights=weights[order.argsort()].float())
