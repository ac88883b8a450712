"""Greedy suppression in a fixed order, by a similarity that also counts how near two cells of the grid are."""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK, unit64
from greedyprune.ops.suppression import Suppressed


def suppress_near(x: Tensor, order: Tensor, grid: tuple[int, int, int], share: float, tau: float, k: int) -> Suppressed:
    """Walk through `order`, take each row whose similarity with every taken row is <= tau, and stop at k.

    (n, d), (c,), (t, h, w) -> Suppressed. Similarity is (1 - s) cos + s exp(-d² / 2), s the `share`, d the distance of
    the two cells, and 0 in place of the exponential for cells of different frames. All of it is float64, and values
    within `SLACK` of tau are not above it. `largest` is the largest such similarity of two rows taken.
    Cost O(n d) per row taken, memory O(n d).
    """
    units, cells = unit64(x), _cells(grid, x.device)
    by = order.new_full((x.shape[0],), -1)
    taken, largest, queue = list[Tensor](), -1.0, order
    highest = units.new_full((x.shape[0],), -1.0)
    while queue.numel() and len(taken) < k:
        row, queue = queue[:1], queue[1:]
        largest = max(largest, float(highest[row])) if taken else largest
        taken.append(row)
        if len(taken) == k:
            break
        cosines = (units[queue] @ units[row[0]]).clamp_(-1, 1)
        apart = cells[queue] - cells[row]
        near = torch.exp(-apart[:, 1:].square().sum(1) / 2) * (apart[:, 0] == 0)
        alike = (1 - share) * cosines + share * near
        highest[queue] = torch.maximum(highest[queue], alike)
        gone = alike > tau + SLACK
        by[queue[gone]] = row
        queue = queue[~gone]
    return Suppressed(torch.cat(taken) if taken else order[:0], by, largest)


def _cells(grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """The frame, the row and the column of every token. (t, h, w) -> (n, 3) float64"""
    return torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64, device=device) for side in grid))
