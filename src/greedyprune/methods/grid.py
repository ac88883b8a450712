"""Uniform grid: k tokens spread evenly over the image. Many published methods do not beat this control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Cues, Grid, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.grid import uniform_cells
from greedyprune.stages import Layer, Stage


@dataclass(frozen=True, kw_only=True)
class UniformGrid(Method):
    """The tokens at the centres of a rows x columns lattice. The farthest cells complete it to exactly k. A control.

        gp.prune(model, gp.UniformGrid(), keep=64)

    Differs: it has no source. It uses the grid alone. Gains are 0. Cost: O(n), and O(n) per added cell.
    """

    needs: ClassVar[tuple[Need, ...]] = (Grid(),)
    equivariant: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False

    at: Stage = Layer(2)

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        assert cues.grid is not None
        cells = uniform_cells(cues.grid, k).to(cues.features.device)
        order = protected_first(cells, cues.protect)[:k]
        return Keep.from_order(order, torch.zeros(k, device=order.device), cues.n)
