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


def beside_in_sequence(rows: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The cells one place and one row's length before and after some cells, without them. (a,) -> (r,) ascending

    A cell at the end of a row has the first of the next row beside it. A place outside the grid is its first or last.
    """
    t, h, w = grid
    near = torch.zeros(t * h * w, dtype=torch.bool, device=rows.device)
    near[(rows[:, None] + torch.tensor([-1, 1, -w, w], device=rows.device)).clamp(0, t * h * w - 1)] = True
    near[rows] = False
    return near.nonzero()[:, 0]
