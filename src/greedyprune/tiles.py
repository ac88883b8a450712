"""Tiles: which part of the image each token shows, if a model sees an image as a whole and in crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from greedyprune.checks import check_tensor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tiles:
    """The view that each token shows, if a model sees an image as a whole and in crops.

        Tiles(crop, layout=(2, 2), whole=(24, 24))      # four crops, and a whole view of 576 tokens

    Tokens of crops have any order: some models keep a crop's tokens together, others lay all crops out as one map.
    The tokens of the whole view are in raster order among themselves. Raises ValueError if the parts do not fit.
    """

    crop: Tensor
    """(n,) the crop that each token shows, counted from 0 in raster order; -1 for tokens of the whole view."""
    layout: tuple[int, int]
    """(rows, columns) of the crops, which divide the image evenly. A crop of padding may have no tokens."""
    whole: tuple[int, int]
    """(h, w) of the whole view, which has all of its h*w tokens."""

    def __post_init__(self) -> None:
        check_tensor("tiles: crop", self.crop, what="an (n,) int64")
        if self.crop.ndim != 1 or self.crop.dtype != torch.int64:
            raise ValueError(
                f"tiles: crop has shape {tuple(self.crop.shape)} and type {self.crop.dtype}: pass (n,) crop numbers, "
                "int64, -1 for tokens of the whole view."
            )
        count, listed = self.layout[0] * self.layout[1], self.crop.cpu()
        if min(self.layout) < 1 or not bool(((listed >= -1) & (listed < count)).all()):
            raise ValueError(f"tiles: layout={self.layout} has crops 0 to {count - 1}, and crop holds others.")
        if min(self.whole) < 1 or int((listed < 0).sum()) != self.whole[0] * self.whole[1]:
            raise ValueError(
                f"tiles: whole={self.whole} does not hold the {int((listed < 0).sum())} tokens of the whole view: "
                "(h, w) needs h*w tokens whose crop is -1."
            )
