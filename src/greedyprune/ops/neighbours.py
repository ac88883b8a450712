"""Neighbours on the grid that tokens come from."""

from __future__ import annotations

import torch
from torch import Tensor


def beside(rows: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The cells above, below, left and right of some cells, in the same frame, without them. (a,) -> (r,) ascending

    Cells at the edge have fewer neighbours; nothing wraps around.
    """
    t, h, w = grid
    marked = torch.zeros(t * h * w, dtype=torch.bool, device=rows.device)
    marked[rows] = True
    cells = marked.view(grid)
    near = torch.zeros_like(cells)
    near[:, 1:] |= cells[:, :-1]
    near[:, :-1] |= cells[:, 1:]
    near[:, :, 1:] |= cells[:, :, :-1]
    near[:, :, :-1] |= cells[:, :, 1:]
    return (near & ~cells).flatten().nonzero()[:, 0]
