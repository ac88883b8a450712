"""Overlay: one image with the patches that were kept in full colour, outlined, and the others dimmed."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image, ImageDraw, ImageFont

from greedyprune.plots.given import Picture, as_picture
from greedyprune.preprocessing.pictures import rgb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greedyprune.keep import Keep
    from greedyprune.selection import Selection

Box: TypeAlias = tuple[float, float, float, float]
"""left, top, right, bottom, in pixels of the image."""

PALENESS = 0.4
"""The share of its colour that a dropped patch keeps."""
SMALLEST_CELL = 6
"""Pixels. If the grid is finer, the picture is enlarged, so that neighbouring patches can be told apart."""
LARGEST = 4
"""Times `size`: the longest side of a picture that was enlarged so. Beyond it, the shorter side alone is stretched."""


def overlay(
    image: Picture,
    selection: Selection | Keep,
    *,
    grid: tuple[int, int, int] | None = None,
    part: Box | None = None,
    order: bool = False,
    size: int = 504,
    dim: float = 0.4,
    outline: str | tuple[int, int, int] = "#ffd60a",
) -> Image.Image:
    """Draw which patches were kept: full colour and an outline for these, pale and at `dim` brightness the others.

    `image` is a PIL image, the path of one, or an array of its bytes, (h, w, 3). `selection` is one of
    `pruned.selections`, or a bare `Keep` together with its `grid`. `part` is the part of the image that the grid
    covers, where that is not the whole (see `seen`); what lies outside is darker still. With `order`, every kept patch
    carries the number of its turn, 1 the first taken. `size` is the longest side of the result in pixels. Raises
    ValueError for a selection without a grid of one frame, TypeError for what is no image or no selection.
    """
    image = as_picture(image)
    _check_selection(selection)
    rows, columns = _cells(selection, grid)
    kept = [int(row) for row in selection.order.tolist()]
    picture, (left, top, right, bottom) = _enlarged(image, part, max(size, 1), rows, columns)
    xs = [round(left + (right - left) * i / columns) for i in range(columns + 1)]
    ys = [round(top + (bottom - top) * i / rows) for i in range(rows + 1)]
    pale = Image.blend(picture.convert("L").convert("RGB"), picture, PALENESS)
    drawn = Image.eval(pale, lambda value: round(value * dim / 2))
    covered = (xs[0], ys[0], xs[-1], ys[-1])
    drawn.paste(Image.eval(pale.crop(covered), lambda value: round(value * dim)), covered[:2])
    boxes = [(xs[r % columns], ys[r // columns], xs[r % columns + 1], ys[r // columns + 1]) for r in kept]
    for box in boxes:
        drawn.paste(picture.crop(box), box[:2])
    pen = ImageDraw.Draw(drawn)
    cell = min(b - a for side in (xs, ys) for a, b in pairwise(side))
    for x0, y0, x1, y1 in boxes:
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=outline, width=max(1, round(cell / 20)))
    if order:
        _number(pen, boxes, cell)
    return drawn


def _check_selection(given: object) -> None:
    """Raise TypeError with a remedy if this is no selection."""
    if hasattr(given, "order") and hasattr(given, "n"):
        return
    remedy = "give one of pruned.selections, such as pruned.selections[0], or what gp.select returns with its grid."
    if isinstance(given, (list, tuple)):
        remedy = "an overlay draws one image: write overlay(image, selections[0]) for the first, and so on."
    raise TypeError(f"selection is a {type(given).__name__}: {remedy}")


def _cells(selection: Selection | Keep, grid: tuple[int, int, int] | None) -> tuple[int, int]:
    """The numbers of rows and columns of patches."""
    grid = grid or getattr(selection, "grid", None)
    if grid is None:
        raise ValueError(
            f"the selection of {selection.n} tokens has no grid, so there are no patches to draw: "
            "pass grid=(1, h, w) if they do lie on one."
        )
    frames, rows, columns = grid
    if frames != 1:
        raise ValueError(f"the selection covers {frames} frames, an overlay draws one: its grid must be (1, h, w).")
    if rows * columns != selection.n:
        raise ValueError(f"grid={grid} has {rows * columns} patches, the selection is about {selection.n} tokens.")
    return rows, columns


def _enlarged(image: Image.Image, part: Box | None, size: int, rows: int, columns: int) -> tuple[Image.Image, Box]:
    """The picture at its new size, and the covered part in its pixels."""
    width, height = image.size
    left, top, right, bottom = part or (0, 0, width, height)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"part={part} does not lie inside the image of {width} x {height} pixels.")
    least = SMALLEST_CELL * columns / (right - left), SMALLEST_CELL * rows / (bottom - top)
    usual = size / max(width, height)
    scale = min(max(usual, *least), LARGEST * usual)
    new = round(width * max(scale, least[0])), round(height * max(scale, least[1]))
    across, down = new[0] / width, new[1] / height
    picture = rgb(image).resize(new, Image.Resampling.LANCZOS)
    return picture, (left * across, top * down, right * across, bottom * down)


def _number(pen: ImageDraw.ImageDraw, boxes: Sequence[tuple[int, int, int, int]], cell: int) -> None:
    """Write each box's turn into its upper left corner, white with a dark edge, so that it reads on any colour."""
    widest = len(str(len(boxes)))
    font = ImageFont.load_default(size=max(6, min(cell * 0.38, cell * 1.2 / widest)))
    edge = max(1, cell // 20)
    for turn, (left, top, _, _) in enumerate(boxes, start=1):
        place = (left + 2 * edge, top + 2 * edge)
        pen.text(place, str(turn), font=font, anchor="lt", fill="white", stroke_width=edge, stroke_fill="black")
