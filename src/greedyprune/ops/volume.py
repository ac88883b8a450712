"""Greedy rows of the largest log det(I + K_S): rows that add most volume to the taken ones, with a ridge of 1.

K is a product A B^T of two matrices with n rows, so no n x n matrix is needed. The residual of row i is 1 + K_ii less
what the taken rows explain of it: the factor by which det(I + K_S) grows if i joins S. All of it is float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK
from greedyprune.ops.picks import Picks, numbers


def most_volume(a: Tensor, b: Tensor, k: int, *, given: Tensor | None = None) -> Picks:
    """Take k rows, each the one with the largest residual of I + A B^T. (n, c), (n, c) float64 -> Picks

    A B^T is symmetric and positive semidefinite. `given` rows are taken first, in their order. Residuals that differ by
    less than `SLACK` of the largest tie, and ties go to the lowest row. Gains are logarithms of residuals.
    Cost O(k n (c + k)), memory O(n k).
    """
    left = 1 + (a * b).sum(1)
    columns = left.new_zeros(k, left.shape[0])
    free = torch.ones_like(left, dtype=torch.bool)
    starts, taken, gains = numbers(given), list[int](), list[float]()
    for step in range(k):
        if step < len(starts):
            row = starts[step]
        else:
            keys = left.masked_fill(~free, -torch.inf)
            row = int((keys >= keys.max() * (1 - SLACK)).to(torch.uint8).argmax())
        residual = float(left[row].clamp_min(1))  # a ridge of 1 stays, whatever the others explain
        taken.append(row)
        gains.append(math.log(residual))
        free[row] = False
        new = b @ a[row] - columns[:step, row] @ columns[:step]
        columns[step] = new / residual**0.5
        left = (left - columns[step].square()).clamp_min(1)
    return Picks.of(taken, gains, a.device)
