"""Regions: from boxes in pixels to the visual tokens that carry the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from greedyprune.ops.grid import covered_cells

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.ops.grid import Box


def tokens_of(boxes: Sequence[Box], grid: tuple[int, int, int] | None, part: Box) -> Tensor:
    """The tokens of which one box covers more than a fifth, ascending. -> (r,)

    `part` is the part of the image that the grid lies on. There are none without boxes, or without a grid of one frame.
    """
    if not boxes or grid is None or grid[0] != 1:
        return torch.empty(0, dtype=torch.int64)
    return covered_cells(boxes, grid[1:], part)
