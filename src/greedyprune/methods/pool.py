"""Average pooling: tokens of one cell of the image become their mean. A control that merges instead of dropping."""

from __future__ import annotations

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
    """2-D average pooling to rows x columns <= k cells per image; a cell's mean stands at its centre token. A control.

    Frames share k equally; the lattice is the one of `UniformGrid` without the topping up, so it may keep fewer than k.
    Gains are 0.
    Differs: nothing to differ from.
    Cost: O(n d).
    """

    needs: ClassVar[tuple[Need, ...]] = (Grid(),)
    equivariant: ClassVar[bool] = False
    merges: ClassVar[bool] = True

    at: Stage = Input()

    @property
    def exact(self) -> bool:
        """Not every k is rows x columns."""
        return False

    def select(self, cues: Cues, k: int) -> Keep:
        """The cells' means. (n, d) -> Keep with weights"""
        assert cues.grid is not None
        t, h, w = cues.grid
        if k < t:
            raise ValueError(f"average pooling needs at least one token per frame: keep {t} or more, not {k}.")
        weights, centres = pooling_weights(cues.grid, lattice(h, w, k // t))
        order = centres.to(cues.features.device)
        keep = Keep.from_order(order, torch.zeros(order.shape[0], device=order.device), cues.n)
        return replace(keep, weights=weights.to(order.device))
