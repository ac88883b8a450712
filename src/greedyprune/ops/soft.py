"""Soft suppression: take the row with the highest score, lower the scores of similar rows, and repeat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK, unit64
from greedyprune.ops.picks import Picks, numbers


def soft_suppress(
    score: Tensor, decay: Callable[[int], tuple[Tensor, Tensor]], k: int, *, given: Tensor | None = None
) -> Picks:
    """Take k rows, each the one with the highest score, and multiply other scores by `decay` after each. (n,) -> Picks

    `decay(row)` returns rows and the factors of their scores, (r,) and (r,) on the CPU. No row is taken twice. `given`
    rows are taken first, in their order. Scores are float64 and 0 or more. A score ties with the highest if it is less
    than `SLACK` of the highest below it. Ties go to the lowest row.
    Cost O(n) per row taken, and the cost of `decay`.
    """
    scores = score.double().cpu().clone()
    free = torch.ones_like(scores, dtype=torch.bool)
    starts, taken, gains = numbers(given), list[int](), list[float]()
    while len(taken) < k:
        if len(taken) < len(starts):
            row = starts[len(taken)]
        else:
            left = scores.masked_fill(~free, -torch.inf)
            best = left.max()
            row = int((left >= best - SLACK * best.abs()).to(torch.uint8).argmax())
        taken.append(row)
        gains.append(float(scores[row]))
        free[row] = False
        rows, factors = decay(row)
        scores[rows] *= factors
    return Picks.of(taken, gains, score.device)


def nearby(
    x: Tensor, grid: tuple[int, int, int], radius: float, spread: float, tolerance: float
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Make the `decay` of a frame's tokens within `radius` cells of the taken token. (n, d) -> row -> (r,), (r,)

    The factor is 1 - exp(-d^2 / (2 spread^2)) exp(-(1 - cos)^2 / (2 tolerance^2)), d the distance of the cells.
    """
    _, h, w = grid
    reach = int(min(radius, h + w))
    steps = torch.arange(-reach, reach + 1, device="cpu")
    dy, dx = (each.flatten() for each in torch.meshgrid(steps, steps, indexing="ij"))
    square = dy.square() + dx.square()
    inside = (square <= radius * radius) & (square > 0)
    dy, dx, square = dy[inside], dx[inside], square[inside].double()
    near = torch.exp(-square / (2 * spread * spread))

    def decay(row: int) -> tuple[Tensor, Tensor]:
        frame, cell = divmod(row, h * w)
        y, column = cell // w + dy, cell % w + dx
        seen = (y >= 0) & (y < h) & (column >= 0) & (column < w)
        rows = frame * h * w + (y * w + column)[seen]
        units = unit64(x[rows.to(x.device)])
        cosines = (units @ unit64(x[row : row + 1])[0]).clamp_(-1, 1).cpu()
        alike = torch.exp(-(1 - cosines).square() / (2 * tolerance * tolerance))
        return rows, 1 - near[seen] * alike

    return decay


def centre_weights(grid: tuple[int, int, int], share: float) -> Tensor:
    """A Gaussian around the centre of every frame. (t, h, w) -> (n,)

    Along each side its deviation is this share of the distance between the first and the last cell.
    """
    t, h, w = grid
    along: list[Tensor] = []
    for side in (h, w):
        place = torch.arange(side, dtype=torch.float64, device="cpu") - (side - 1) / 2
        along.append(torch.exp(-place.square() / (2 * (share * max(side - 1, 1)) ** 2)))
    return (along[0][:, None] * along[1]).flatten().repeat(t)
