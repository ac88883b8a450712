"""Growing a selection from a few rows outwards: rows that are unlike those taken, and near them on the grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK
from greedyprune.ops.picks import Picks
from greedyprune.ops.ranking import ranked

STEP = 0.1
"""What the threshold rises by after every round."""


def rings(grid: tuple[int, int, int], device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from some rows to every row's distance from the nearest of them, as a share of the grid's diagonal.

    (t, h, w) -> (r,) -> (n,) float64. Rows of two frames are a diagonal apart.
    """
    cells = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64, device=device) for side in grid))
    diagonal = float(grid[1] ** 2 + grid[2] ** 2) ** 0.5

    def distance(rows: Tensor) -> Tensor:
        apart = cells[:, None] - cells[rows]
        lengths = apart[..., 1:].square().sum(2).sqrt() / diagonal
        return lengths.masked_fill(apart[..., 0] != 0, 1.0).amin(1)

    return distance


def grow(
    units: Tensor,
    distance: Callable[[Tensor], Tensor],
    starts: Tensor,
    threshold: float,
    spread: float,
    batch: int,
    k: int,
) -> Picks:
    """Take k rows, `starts` first, then in rounds those whose similarity is below a threshold that rises. -> Picks

    The similarity of row i is m_i (1 + spread d_i), m_i its largest product with a row taken, `units` (n, c) float64,
    and d_i its `distance` from the nearest. A round goes through the free rows from the least similar up, `batch` at a
    time, and computes the similarities of each batch anew. It ends after a first batch of which none is taken. If a
    batch has more than are needed, the least similar of the batch are taken. Gains are 1 - similarity, 2 for `starts`.
    Cost O(k n c).
    """
    order, gains = [starts], [units.new_full((starts.shape[0],), 2.0)]
    likest, nearest = (units @ units[starts].T).amax(1), distance(starts)
    free = torch.ones_like(likest, dtype=torch.bool).index_fill(0, starts, value=False)
    left = k - starts.shape[0]

    def similarity() -> Tensor:
        return likest * (1 + spread * nearest)

    while left > 0:
        queue = free.nonzero()[:, 0]
        queue = queue[ranked(-similarity()[queue])]
        took = False
        for number, some in enumerate(cast("tuple[Tensor, ...]", cast("Any", queue).split(batch))):
            if number == 1 and not took:
                break
            alike = similarity()[some]
            chosen = alike < threshold - SLACK
            if int(chosen.sum()) > left:
                chosen = torch.zeros_like(chosen).index_fill(0, ranked(-alike)[:left], value=True)
            rows = some[chosen]
            if not rows.numel():
                continue
            took = True
            order.append(rows)
            gains.append(1 - alike[chosen])
            free[rows] = False
            left -= rows.shape[0]
            likest = torch.maximum(likest, (units @ units[rows].T).amax(1))
            nearest = torch.minimum(nearest, distance(rows))
            if not left:
                break
        lowest = float(similarity()[free].amin()) if left else threshold
        threshold += STEP * max(1, math.floor((lowest - threshold) / STEP) + 1)  # rounds that take nothing are skipped
    return Picks(torch.cat(order), torch.cat(gains))
