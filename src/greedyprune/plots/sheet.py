"""Contact sheets: pictures in rows, each with a caption that can be read, ticks and crosses included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from greedyprune.plots.given import Picture, as_picture
from greedyprune.preprocessing.pictures import rgb

if TYPE_CHECKING:
    from collections.abc import Sequence

INK, PALE, PAPER = "#1c1f24", "#5b626c", "#ffffff"
GAP = 24
MARKS = {"✓": "#1a7f37", "✗": "#cf222e"}
"""A caption line that begins with one of these gets it drawn: the default font has neither."""


def side_by_side(
    pictures: Sequence[Picture],
    captions: Sequence[str] = (),
    *,
    columns: int | None = None,
    width: int = 336,
    title: str = "",
) -> Image.Image:
    """One sheet of pictures, `columns` per row (all in one row by default), each `width` pixels wide, with its caption.

    The first line of a caption is its heading; long lines are wrapped; lines that begin with "✓ " or "✗ " are drawn
    with a green tick or a red cross. `title` stands above everything. A picture is a PIL image, the path of one, or an
    array of its bytes, (h, w, 3).
    """
    if isinstance(pictures, (str, Path, Image.Image)):
        raise TypeError(f"pictures is a {type(pictures).__name__}: give a list of pictures, [picture] for one.")
    images = [as_picture(picture) for picture in pictures]
    if not images:
        raise ValueError("there are no pictures: a sheet needs one or more.")
    if captions and len(captions) != len(images):
        raise ValueError(f"{len(images)} pictures have {len(captions)} captions: give one for each, or none.")
    columns = min(columns or len(images), len(images))
    if columns < 1 or width < 1:
        raise ValueError(f"columns={columns}, width={width}: both are 1 or more.")
    tiles = [
        rgb(picture).resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS)
        for picture in images
    ]
    texts = [_wrapped(caption, width) for caption in captions or [""] * len(images)]
    heading = _wrapped(title, columns * (width + GAP) - GAP) if title else _Block([])
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    heights = [(max(tiles[i].height for i in row), max(texts[i].height for i in row)) for row in rows]
    down = GAP + (heading.height + GAP // 2 if title else 0)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, down + sum(a + b + GAP for a, b in heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    heading.draw(pen, GAP, GAP)
    for row, (tall, caption) in zip(rows, heights, strict=True):
        for place, i in enumerate(row):
            left = GAP + place * (width + GAP)
            sheet.paste(tiles[i], (left, down))
            texts[i].draw(pen, left, down + tall)
        down += tall + caption + GAP
    return sheet


@dataclass(frozen=True)
class _Line:
    """One line of a caption, short enough for its tile."""

    text: str
    mark: str = ""
    heading: bool = False

    @property
    def size(self) -> int:
        return 19 if self.heading else 17

    @property
    def height(self) -> int:
        return self.size + 7


@dataclass(frozen=True)
class _Block:
    """A caption."""

    lines: list[_Line]

    @property
    def height(self) -> int:
        return sum(line.height for line in self.lines) + (8 if self.lines else 0)

    def draw(self, pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        """Write it, its upper left corner there."""
        top += 8
        for line in self.lines:
            middle = top + line.height // 2
            if line.mark.strip():
                _mark(pen, line.mark, left, middle)
            indent = 22 if line.mark else 0
            fill = INK if line.heading or line.mark else PALE
            pen.text((left + indent, middle), line.text, font=_font(line.size), fill=fill, anchor="lm")
            top += line.height


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _wrapped(caption: str, width: int) -> _Block:
    """A caption in lines that are no wider than that."""
    lines: list[_Line] = []
    for number, text in enumerate(caption.splitlines()):
        mark = text[:1] if text[:2] in {f"{sign} " for sign in MARKS} else ""
        kind = _Line("", mark, heading=number == 0)
        pieces = _pieces(text[2:] if mark else text, width - (22 if mark else 0), _font(kind.size))
        lines += [
            _Line(piece, (mark if i == 0 else " ") if mark else "", kind.heading) for i, piece in enumerate(pieces)
        ]
    return _Block(lines)


def _pieces(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break at spaces; break inside a word only if it is wider than a line."""
    pieces: list[str] = [""]
    for word in text.split():
        joined = f"{pieces[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            pieces[-1] = joined
            continue
        if pieces[-1]:
            pieces.append("")
        for char in word:
            if pieces[-1] and font.getlength(pieces[-1] + char) > width:
                pieces.append("")
            pieces[-1] += char
    return pieces


def _mark(pen: ImageDraw.ImageDraw, mark: str, left: int, middle: int) -> None:
    """A tick or a cross, 13 pixels wide."""
    x, y, colour = left + 1, middle, MARKS[mark]
    if mark == "✓":
        pen.line([(x, y), (x + 5, y + 5), (x + 13, y - 6)], fill=colour, width=3, joint="curve")
    else:
        pen.line([(x + 1, y - 5), (x + 12, y + 6)], fill=colour, width=3)
        pen.line([(x + 1, y + 6), (x + 12, y - 5)], fill=colour, width=3)
