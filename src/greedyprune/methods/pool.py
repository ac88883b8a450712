"""Average pooling: the tokens of each cell of the image become their mean. A control that merges, not drops."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from greedyprune.cues import Cues, Grid, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.grid import lattice, pooling_weights
from greedyprune.stages import Input, Stage


@dataclass(frozen=True, kw_only=True)
class AveragePool(Method):
    """2-D average pooling to rows x columns <= k cells per image. A cell's mean replaces its centre token. A control.

        gp.prune(model, gp.AveragePool(), keep=64)

    Frames share k equally. The lattice is that of `UniformGrid` without the added cells, so it may keep fewer than k.
    Gains are 0.
    Differs: it has no source.
    Cost: O(n d).
    """

    needs: ClassVar[tuple[Need, ...]] = (Grid(),)
    equivariant: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()

    @property
    def exact(self) -> bool:
        """False: not every k is rows x columns."""
        return False

    def kept(self, k: int, n: int, grid: tuple[int, int, int] | None) -> int | None:
        """The number of cells of all frames, from the grid alone. Raises ValueError if there is no grid."""
        if grid is None:
            raise ValueError("how many cells average pooling makes depends on the grid: pass grid=(t, h, w).")
        return grid[0] * math.prod(_cells(grid, k))

    def select(self, cues: Cues, k: int) -> Keep:
        """Compute the cells' means. (n, d) -> Keep with weights"""
        assert cues.grid is not None
        weights, centres = pooling_weights(cues.grid, _cells(cues.grid, k))
        order = centres.to(cues.features.device)
        keep = Keep.from_order(order, torch.zeros(order.shape[0], device=order.device), cues.n)
        return replace(keep, weights=weights.to(order.device))


def _cells(grid: tuple[int, int, int], k: int) -> tuple[int, int]:
    """The rows and columns of cells in each frame."""
    t, h, w = grid
    if k < t:
        raise ValueError(f"average pooling needs at least one token per frame: keep {t} or more, not {k}.")
    return lattice(h, w, k // t)
