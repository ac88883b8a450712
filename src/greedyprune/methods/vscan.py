"""VScan's scans of the tower: tokens of every window by a shallow layer, tokens of the image by the last, and means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from greedyprune.cues import Attention, Cues, Grid, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.groups import best_of_each
from greedyprune.ops.matching import most_similar
from greedyprune.ops.merging import alone, cluster_means, merged
from greedyprune.stages import Input, Stage

GLOBAL, LOCAL = Attention("tower"), Attention("tower", layer=5 / 24)
SIDE = 6
"""The cells along a side of a window."""


@dataclass(frozen=True, kw_only=True)
class VScan(Method):
    """Half of k from windows of 6 x 6 cells, by a shallow layer's attention; the rest of k by the last one's.

        gp.prune(model, gp.VScan(), keep=64)

    Attention is that of the tower's class token. Local scan: each of W windows keeps floor(floor(k/2) / W) tokens, the
    most attended in layer 5 of 24. Global scan: the most attended of the others, in the layer that the projector reads,
    until k are kept. Each dropped token joins the kept one with the most similar row; a kept row becomes the mean of
    itself and those that joined it. Gains are the projector's layer's attention. TMLR 2026, and its released code.

    Differs: this is the first of two stages. The second, which is not run, keeps a third by the last prompt token's
    attention before layer 16 of 32. If W does not divide floor(k/2), the released code keeps fewer than k; here the
    global scan fills the budget. Its windows need a grid of 24 x 24; here windows at the right and lower borders may be
    smaller, and every frame has its own. If the tower has no class token, the mean attention of all its tokens is used.
    Rows keep their original positions. If attention= is given, it is used for both layers. Ties go to the lowest index.
    Cost: one query at two layers of the tower, O(n k d).
    """

    needs: ClassVar[tuple[Need, ...]] = (GLOBAL, LOCAL, Grid())
    equivariant: ClassVar[bool] = False
    merges: ClassVar[bool] = True

    at: Stage = Input()
    local: float = 0.5
    """The share of k for the windows."""
    merge: bool = True
    """False: kept rows stay as they are, and dropped ones are lost."""

    def __post_init__(self) -> None:
        if not 0 <= self.local <= 1:
            raise ValueError(f"local={self.local!r} is no share of the budget: write a number from 0 to 1.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the tokens of both scans, and compute the means. (n, d) -> Keep with weights"""
        assert cues.grid is not None
        shallow, deep = (cues[need].sort(descending=True, stable=True).indices for need in (LOCAL, GLOBAL))
        window, many = windows(cues.grid, deep.device)
        near = best_of_each(shallow, window, [int(k * self.local) // many] * many)
        order = torch.cat([near, deep[~torch.isin(deep, near)]])[:k]
        weights = self._means(cues.features, order) if self.merge and k < cues.n else alone(order, cues.n)
        return merged(order, cues[GLOBAL][order], weights)

    def _means(self, rows: Tensor, order: Tensor) -> Tensor:
        """Weights of each kept row and those that join it; ties go to the first in raster order. -> (k, n)"""
        lowest, place = order.sort()
        dropped = torch.ones_like(rows[:, 0], dtype=torch.bool).index_fill(0, order, value=False).nonzero()[:, 0]
        of = place.new_full((rows.shape[0],), -1)
        of[dropped] = place[most_similar(rows[dropped], rows[lowest])[1]]
        of[order] = torch.arange(order.shape[0], device=order.device)
        return cluster_means(of, order.shape[0])


def windows(grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, int]:
    """The window of each token, in raster order, and the number of windows. (t, h, w) -> (n,), W"""
    t, h, w = grid
    down, across = -(-h // SIDE), -(-w // SIDE)
    frame, y, x = (torch.arange(size, device=device) for size in grid)
    number = (frame[:, None, None] * down + (y // SIDE)[:, None]) * across + x // SIDE
    return number.flatten(), t * down * across
