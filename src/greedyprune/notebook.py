"""HTML of results in a notebook: tables, and maps of the kept tokens, which need no script and no package.

pruned.report()             # at the end of a cell: a table of counts, before and after
pruned.selections[0]        # the map of an image's tokens, the first taken darkest
gp.MMR()                    # what the method does, and its options
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

SIDE = 240
"""The longest side of a map in pixels."""
FRAMES = 8
"""The number of frames that a map shows of a clip."""


def maps(grid: tuple[int, int, int], order: Sequence[int]) -> str:
    """A drawing for each frame. Kept cells are filled, the first taken darkest."""
    frames, rows, columns = grid
    cell = max(2, SIDE // max(rows, columns))
    turns = {row: turn for turn, row in enumerate(order)}
    drawn = [_map(frame, rows, columns, cell, turns) for frame in range(min(frames, FRAMES))]
    more = f"<p>and {counted(frames - FRAMES, 'more frame')}</p>" if frames > FRAMES else ""
    return "".join(drawn) + more


def _map(frame: int, rows: int, columns: int, cell: int, turns: dict[int, int]) -> str:
    """One frame as a drawing."""
    width, height, begin = columns * cell, rows * cell, frame * rows * columns
    cells: list[str] = []
    for place in range(rows * columns):
        turn = turns.get(begin + place)
        if turn is not None:
            x, y = place % columns * cell, place // columns * cell
            shade = 1 - 0.7 * turn / max(len(turns) - 1, 1)
            cells.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill="#3f51b5" '
                f'fill-opacity="{shade:.2f}"><title>token {begin + place}, taken as number {turn + 1}</title></rect>'
            )
    back = f'<rect width="{width}" height="{height}" fill="#9e9e9e" fill-opacity="0.25"/>'
    size = f'width="{width}" height="{height}" style="margin-right: 8px"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>{back}{"".join(cells)}</svg>'


def titled(title: str, body: str) -> str:
    """A block under a title, which is escaped; the body is HTML already."""
    return f"<div><strong>{escape(title)}</strong><br>{body}</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. Every cell is escaped."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def counted(number: int, name: str) -> str:
    """A number of things, as in 2 images."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def in_bytes(number: float) -> str:
    """A size, as in 1.5 MiB."""
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def in_flops(number: float) -> str:
    """A number of operations, as in 3.2 G."""
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P", "E")).strip()


def _scaled(number: float, step: int, units: Sequence[str]) -> str:
    """The number in the largest unit in which it is 1 or more, with three digits."""
    place = 0
    while number >= step and place + 1 < len(units):
        number, place = number / step, place + 1
    unit = units[place]
    return f"{number:.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
