"""Regions: which visual tokens carry the answer, given its boxes in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.eval.items import Box

COVERED = 0.2
"""A token carries the answer if a box covers more than this share of its cell."""


def tokens_of(boxes: Sequence[Box], grid: tuple[int, int, int] | None, part: Box) -> Tensor:
    """The tokens of which one box covers more than a fifth, row by row, ascending. -> (r,)

    `part` is the part of the image that the grid lies on. There are none without boxes, or without a grid of one frame.
    """
    if not boxes or grid is None or grid[0] != 1:
        return torch.empty(0, dtype=torch.int64)
    _, rows, columns = grid
    left, top, right, bottom = part
    wide, high = (right - left) / columns, (bottom - top) / rows
    x, y = left + wide * torch.arange(columns).double(), top + high * torch.arange(rows).double()
    found = torch.zeros(rows, columns, dtype=torch.bool)
    for box in boxes:
        across = (torch.clamp(x + wide, max=box[2]) - torch.clamp(x, min=box[0])).clamp(min=0)
        down = (torch.clamp(y + high, max=box[3]) - torch.clamp(y, min=box[1])).clamp(min=0)
        found |= down[:, None] * across > COVERED * wide * high
    return found.flatten().nonzero()[:, 0]
