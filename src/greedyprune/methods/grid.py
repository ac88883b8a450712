"""Uniform grid: k tokens spread evenly over the image. A control that many published methods do not beat."""

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
    """The tokens at the centres of a rows x columns lattice, topped up to exactly k by the farthest cell. A control.

    Differs: nothing to differ from; it looks at the grid alone. Gains are 0. Cost: O(n) and O(n) per topped-up token.
    """

    needs: ClassVar[tuple[Need, ...]] = (Grid(),)
    equivariant: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False

    at: Stage = Layer(2)

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        assert cues.grid is not None
        cells = uniform_cells(cues.grid, k).to(cues.features.device)
        order = protected_first(cells, cues.protect)[:k]
        return Keep.from_order(order, torch.zeros(k, device=order.device), cues.n)
