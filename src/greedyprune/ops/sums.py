"""Farthest-first by sums: take the row with the largest sum of distances from all taken rows (greedy max-sum).

A row's cosines with a set add up to its product with the sum of the set's unit rows. So float64 decides a near tie with
one product per row, for any number of taken rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks
from greedyprune.ops.cosine import DOUBT, SLACK, UnitRows, ieee, unit64
from greedyprune.ops.picks import Picks, numbers


def farthest_in_sum(x: Tensor | UnitRows, k: int, *, given: Tensor) -> Picks:
    """Take k rows: the given ones in order, then the one whose cosines with the taken have the smallest sum.

    (n, d) -> Picks. Gains are sums of distances 1 - cosine from the rows taken before. Ties (within `SLACK` in float64)
    go to the lowest row. Cost O(k n d), memory O(n d).
    """
    unit = UnitRows.of(x)
    n, device = unit.x.shape[0], unit.x.device
    rows, starts = unit.all(), numbers(given)
    total = torch.zeros(unit.x.shape[1], dtype=torch.float64, device=device)
    sums = torch.zeros(n, dtype=torch.float64, device=device)
    taken, gains = list[int](), list[float]()
    while len(taken) < k:
        if len(taken) < len(starts):
            close = torch.tensor([starts[len(taken)]], device=device)
        else:  # the error of each float32 cosine in a sum is at most DOUBT / 2
            close = (sums <= sums.min() + DOUBT * len(taken)).nonzero()[:, 0]
        exact = torch.cat([unit64(unit.x[some]) @ total for some in in_blocks(close, unit.x.shape[1])])
        place = int((exact <= exact.min() + SLACK).to(torch.uint8).argmax())
        row = int(close[place])
        gains.append(len(taken) - float(exact[place]))
        taken.append(row)
        total += unit64(unit.x[row : row + 1])[0]
        sums += rows @ rows[row] if ieee() else unit.dot(unit.x[row])
        sums[row] = torch.inf
    return Picks.of(taken, gains, device)
