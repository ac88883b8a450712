"""Cells of a grid: evenly spread cells, means over cells, and the cells under boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from greedyprune.checks import as_grid, check_tensor

Box = tuple[float, float, float, float]


def uniform_cells(grid: tuple[int, int, int], k: int) -> Tensor:
    """k distinct cells, evenly spread, as indices in raster order. (t, h, w), k -> (k,) ascending

    Frames share k as evenly as possible. Inside a frame, a rows x columns lattice of centres comes first. The rest of k
    is taken one by one: the cell farthest from all chosen ones, ties to the lowest index.
    """
    t, h, w = grid
    # Frame f gets the cells between two consecutive multiples of k/t, so frames differ by at most 1.
    shares = [(f + 1) * k // t - f * k // t for f in range(t)]
    return torch.cat([_cells(h, w, share) + f * h * w for f, share in enumerate(shares)])


def _cells(h: int, w: int, k: int) -> Tensor:
    """k cells of one frame. -> (k,) ascending"""
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device="cpu")
    rows, columns = lattice(h, w, k)
    y = torch.tensor([(2 * i + 1) * h // (2 * rows) for i in range(rows)], device="cpu")
    x = torch.tensor([(2 * j + 1) * w // (2 * columns) for j in range(columns)], device="cpu")
    chosen = (y[:, None] * w + x).flatten()
    places = torch.cartesian_prod(torch.arange(h, device="cpu"), torch.arange(w, device="cpu")).double()
    distance = torch.cdist(places, places[chosen]).amin(1)
    extra: list[int] = []
    for _ in range(k - chosen.numel()):
        extra.append(int(distance.argmax()))
        distance = torch.minimum(distance, torch.cdist(places, places[extra[-1:]])[:, 0])
    return torch.cat([chosen, torch.tensor(extra, dtype=torch.int64, device="cpu")]).sort().values


def lattice(h: int, w: int, k: int) -> tuple[int, int]:
    """The rows x columns <= k whose largest cell side is smallest; of equal ones, the one with most cells."""

    def badness(rows: int) -> tuple[float, int]:
        columns = min(w, k // rows)
        return max(h / rows, w / columns), -rows * columns

    rows = min(range(1, min(h, k) + 1), key=badness)
    return rows, min(w, k // rows)


def grid_positions(grid: tuple[int, int, int], rows: Tensor) -> Tensor:
    """The frame, the row and the column of each kept token, as M-RoPE numbers them. (t, h, w), (k,) -> (k, 3) int64

        grid_positions((1, 24, 24), keep.rows)

    Raises ValueError if a row is not one of the grid's t*h*w tokens.
    """
    t, h, w = as_grid(grid, math.prod(grid))
    check_tensor("rows", rows, what="a (k,) int64")
    if rows.ndim != 1 or rows.dtype != torch.int64:
        raise ValueError(f"rows has shape {tuple(rows.shape)} and type {rows.dtype}: pass (k,) token numbers, int64.")
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < t * h * w:
        raise ValueError(f"rows holds tokens {int(rows.min())} to {int(rows.max())}: a grid of {grid} has {t * h * w}.")
    return torch.stack([rows // (h * w), rows // w % h, rows % w], dim=1)


def covered_cells(boxes: Sequence[Box], cells: tuple[int, int], part: Box) -> Tensor:
    """The cells that one box covers by more than a fifth, in raster order. (boxes), (rows, columns) -> (r,) ascending

    Boxes are (left, top, right, bottom) in pixels. `part` is the rectangle of pixels that the cells divide evenly.
    """
    rows, columns = cells
    left, top, right, bottom = part
    x = left + torch.arange(columns + 1, device="cpu").double() * ((right - left) / columns)
    y = top + torch.arange(rows + 1, device="cpu").double() * ((bottom - top) / rows)
    found = torch.zeros(rows, columns, dtype=torch.bool, device="cpu")
    for box in boxes:
        across = (x[1:].clamp(max=box[2]) - x[:-1].clamp(min=box[0])).clamp(min=0)
        down = (y[1:].clamp(max=box[3]) - y[:-1].clamp(min=box[1])).clamp(min=0)
        # Both sides are multiplied by five, so whole pixels never round: a fifth is no binary fraction.
        found |= 5 * down[:, None] * across * (rows * columns) > (right - left) * (bottom - top)
    return found.flatten().nonzero()[:, 0]


def pooling_weights(grid: tuple[int, int, int], cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The weights of means over a rows x columns lattice of every frame, and the token at the centre of each cell.

    Cell i of r along a side of h tokens covers the tokens from floor(i h / r) to ceil((i + 1) h / r), as adaptive
    average pooling does. (t, h, w), (rows, columns) -> (k, n), (k,)
    """
    (t, h, w), (rows, columns) = grid, cells
    side = torch.einsum("yi,xj->yxij", _side(h, rows), _side(w, columns)).reshape(rows * columns, h * w)
    weights = torch.kron(torch.eye(t, device="cpu"), side)
    y = torch.tensor([(2 * i + 1) * h // (2 * rows) for i in range(rows)], device="cpu")
    x = torch.tensor([(2 * j + 1) * w // (2 * columns) for j in range(columns)], device="cpu")
    frame = (y[:, None] * w + x).flatten()
    return weights, torch.cat([frame + f * h * w for f in range(t)])


def _side(size: int, parts: int) -> Tensor:
    """Weights of one axis. -> (parts, size)"""
    weights = torch.zeros(parts, size, device="cpu")
    for i in range(parts):
        first, last = i * size // parts, -(-(i + 1) * size // parts)
        weights[i, first:last] = 1 / (last - first)
    return weights
