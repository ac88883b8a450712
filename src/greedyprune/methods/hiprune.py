"""HiPrune: anchors by the attention of a middle tower layer, their neighbours, then tokens by that of a late layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from greedyprune.cues import Attention, Cues, Grid, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.neighbours import beside, beside_in_sequence
from greedyprune.shown import shown
from greedyprune.stages import Input, Stage

LATE = Attention("received")
Adjacency = Literal["grid", "sequence"]


@dataclass(frozen=True, kw_only=True)
class HiPrune(Method):
    """Keep round(0.1 k / 5) anchors and their neighbour cells. Fill the budget by the attention of a late layer.

        gp.prune(model, gp.HiPrune(), keep=64)

    Anchors receive most attention, on average from all tokens, in a middle layer of the vision tower. The other tokens
    are ranked by the attention that they receive in the layer that the projector reads. So a tenth of the budget
    covers local objects. No class token is needed. Gains are the late layer's. Jizhihui Liu et al., arXiv 2508.00553.

    Differs: neighbours are those on the grid, at most four. The released code adds 1 and 24 to flat indices, and
    subtracts them, so rows run into each other; `adjacency="sequence"` does the same. The published middle layer,
    index 8 of CLIP's 24, is given as a third of the depth, so it exists in other towers too. Ties go to the lowest
    index. Cost: the attention of two layers of the tower, summed over all queries, O(n^2) each, and O(n log n).
    """

    equivariant: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()
    layer: int | float = 1 / 3
    """The layer of the tower that ranks the anchors: a share of its depth, or a number, negative from the end."""
    share: float = 0.1
    """The share of k for anchors and their neighbours."""
    adjacency: Adjacency = "grid"
    """The cells beside an anchor: on the "grid", or in the "sequence" of its rows, as in the released code."""

    def __post_init__(self) -> None:
        share = isinstance(self.layer, float) and 0 <= self.layer < 1
        if not share and (isinstance(self.layer, bool) or not isinstance(self.layer, int)):
            raise TypeError(f"layer={self.layer!r} is no layer of the tower: write a share below 1, or an int.")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share!r} is no share of the budget: write a number from 0 to 1.")
        if self.adjacency not in get_args(Adjacency):
            known = ", ".join(get_args(Adjacency))
            raise ValueError(f"adjacency={shown(self.adjacency)} is unknown: choose one of {known}.")

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Attention in the two layers, and the grid."""
        return Attention("received", layer=self.layer), LATE, Grid()

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        assert cues.grid is not None
        middle, late = (cues[need].sort(descending=True, stable=True).indices for need in self.needs[:2])
        anchors = middle[: round(k * self.share / 5)]
        near = beside if self.adjacency == "grid" else beside_in_sequence
        ranking = protected_first(late, torch.cat([anchors, near(anchors, cues.grid)]))
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, cues[LATE][order], cues.n)
