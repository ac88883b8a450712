"""The bias of places: the attention that each place of an image gets on average, on any grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class PositionBias:
    """The attention that each place of an image gets on average, whatever the image shows.

        bias = gp.calibrate(model, prompts)     # a PositionBias; prompts: what the processor returned for many images
        gp.PositionBias((0.1, 0.2, 0.3, 0.4), grid=(2, 2))
        gp.prune(model, gp.D2Pruner(bias=bias), keep=64)

    It belongs to one model, one decoder layer and one question. Raises ValueError if a value is below 0 or not finite,
    if all are 0, or if the grid has another number of cells.
    """

    values: tuple[float, ...]
    """The mean attention of each token, in raster order."""
    grid: tuple[int, int] | None = None
    """(h, w) the grid of the tokens. None: the images have no grid, and all have as many tokens."""

    def __post_init__(self) -> None:
        bad = [value for value in self.values if not (value >= 0 and math.isfinite(value))]
        if bad or not sum(self.values) > 0:
            wrong = f"holds {bad[0]!r}" if bad else "holds no value above 0"
            raise ValueError(f"values {wrong}: pass the mean attention of each token, as gp.calibrate() returns it.")
        if self.grid is not None and (len(self.grid) != 2 or self.grid[0] * self.grid[1] != len(self.values)):
            raise ValueError(f"grid={self.grid!r} and {len(self.values)} values do not fit: pass (h, w) of the tokens.")

    def of(self, n: int, grid: tuple[int, int, int] | None) -> Tensor:
        """The bias of n tokens on a (t, h, w) grid, on the CPU. -> (n,) float64

        On another grid it is read off bilinearly, and every frame has the same. Raises ValueError if one of both has no
        grid and the numbers of tokens differ.
        """
        found = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        if grid is None or self.grid is None:
            if n != found.shape[0]:
                raise ValueError(
                    f"the bias is of images with {found.shape[0]} visual tokens and this image has {n}, without a grid "
                    "to read it off: calibrate with images of this size."
                )
            return found
        t, h, w = grid
        if (h, w) != self.grid:
            whole = found.view(1, 1, *self.grid)
            found = interpolate(whole, (h, w), mode="bilinear", align_corners=False).flatten()
        return found.repeat(t)
