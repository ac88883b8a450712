"""Budgets for an image that a model sees as a whole and in crops. The whole view decides the share of each crop."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from greedyprune.ops.split import split


def cells_in_crops(cells: Tensor, whole: tuple[int, int], layout: tuple[int, int]) -> Tensor:
    """The crop that holds the centre of each cell of the whole view, in raster order. (c,) -> (c,)

    The whole view is a grid of h x w cells in raster order, and rows x columns crops divide the image evenly. A centre
    on the border of two crops belongs to the lower or the right one.
    """
    (h, w), (rows, columns) = whole, layout
    y, x = cells // w, cells % w
    return (2 * y + 1) * rows // (2 * h) * columns + (2 * x + 1) * columns // (2 * w)


def crop_budgets(k: int, alpha: float, top: Sequence[int], room: Sequence[int]) -> list[int]:
    """Divide k tokens: a share alpha for the whole view, the rest for the crops in the proportion of `top`.

    `top` is the number of the whole view's top tokens in each crop. `room` is the number of tokens of the whole view,
    then of each crop. The whole view's part is rounded down, the crops' are whole numbers by largest remainder. Tokens
    that a full part cannot take go to the others. k, (c), (1 + c) -> 1 + c budgets
    """
    whole = min(max(int(k * alpha), k - sum(room[1:])), room[0])
    return [whole, *split(k - whole, top, at_most=room[1:])]


def top_in_crops(
    attention: Tensor, share: float, whole: tuple[int, int], layout: tuple[int, int], *, in_sequence: bool = False
) -> list[int]:
    """The number of the whole view's most attended tokens in each crop. (h*w,) -> rows*columns

    The most attended tokens are the first share * h * w, rounded down. Ties go to the lowest cell. If `in_sequence`,
    the crops are even runs of the raster, one after the other, wherever they lie.
    """
    top = attention.sort(descending=True, stable=True).indices[: int(attention.shape[0] * share)]
    crops = layout[0] * layout[1]
    crop = top * crops // attention.shape[0] if in_sequence else cells_in_crops(top, whole, layout)
    return [int(number) for number in crop.bincount(minlength=crops).cpu()]
