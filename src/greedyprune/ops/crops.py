"""Budgets for an image that a model sees as a whole and in crops: the whole view says which crops count."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from greedyprune.ops.split import split


def cells_in_crops(cells: Tensor, whole: tuple[int, int], layout: tuple[int, int]) -> Tensor:
    """In which crop each cell of the whole view lies, by its centre; crops in raster order. (c,) -> (c,)

    The whole view is a grid of h x w cells in raster order, and rows x columns crops divide the image evenly. A centre
    on the border of two crops belongs to the lower or the right one.
    """
    (h, w), (rows, columns) = whole, layout
    y, x = cells // w, cells % w
    return (2 * y + 1) * rows // (2 * h) * columns + (2 * x + 1) * columns // (2 * w)


def crop_budgets(k: int, alpha: float, top: Sequence[int], room: Sequence[int]) -> list[int]:
    """k tokens for the whole view and the crops: a share alpha for the whole view, the rest in the proportion of `top`.

    `top` says how many of the whole view's top tokens lie in each crop, `room` how many tokens the whole view and then
    each crop have. Parts are whole numbers by largest remainder; what a full one cannot take goes to the others.
    k, (c), (1 + c) -> 1 + c budgets
    """
    whole, rest = split(k, [alpha, 1 - alpha], at_most=[room[0], sum(room[1:])])
    return [whole, *split(rest, top, at_most=room[1:])]


def top_in_crops(attention: Tensor, share: float, whole: tuple[int, int], layout: tuple[int, int]) -> list[int]:
    """How many of the whole view's most attended tokens, a share of all, lie in each crop. (h*w,) -> rows*columns

    As many tokens as share * h * w rounds to; ties go to the lowest cell.
    """
    count = int(share * attention.shape[0] + 0.5)
    top = attention.sort(descending=True, stable=True).indices[:count]
    found = cells_in_crops(top, whole, layout).bincount(minlength=layout[0] * layout[1])
    return [int(number) for number in found.cpu()]
