"""Steps: how a selection grows, in the order in which its tokens were taken, and the parts of a clip's selection.

save_steps(Path("kept.gif"), steps(image, pruned.selections[0]))
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from greedyprune.keep import Keep
from greedyprune.plots.patches import overlay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from greedyprune.plots.given import Picture
    from greedyprune.selection import Selection

PAUSE, LAST = 250, 2500
"""Milliseconds that each picture of an animation is shown, and the last one."""


def steps(image: Picture, selection: Selection, *, frames: int = 10, **more: Any) -> list[Image.Image]:
    """Draw a selection as it grows: nothing kept, then more and more in the order taken, at last everything kept.

    -> `frames` + 1 pictures, fewer if fewer tokens were kept. `more` goes to `overlay`, whose errors it raises.
    """
    if frames < 1:
        raise ValueError(f"frames={frames}: write the number of steps, 1 or more.")
    order, gains = selection.order, selection.gains
    counts = sorted({round(selection.k * step / frames) for step in range(frames + 1)})
    grown = [Keep.from_order(order[:k], gains[:k], selection.n) for k in counts]
    return [overlay(image, each, grid=selection.grid, **more) for each in grown]


def by_frame(selection: Selection) -> list[tuple[Keep, tuple[int, int, int]]]:
    """Split the selection of a clip into one for each frame that the model made, with the grid of that frame.

    Raises ValueError if its tokens lie on no grid.
    """
    if selection.grid is None:
        raise ValueError(f"the {selection.n} tokens of the clip lie on no grid, so there are no patches to draw.")
    t, h, w = selection.grid
    found: list[tuple[Keep, tuple[int, int, int]]] = []
    for frame in range(t):
        mine = (selection.order >= frame * h * w) & (selection.order < (frame + 1) * h * w)
        one = Keep.from_order(selection.order[mine] - frame * h * w, selection.gains[mine], h * w)
        found.append((one, (1, h, w)))
    return found


def save_steps(file: Path | IO[bytes], pictures: Sequence[Image.Image]) -> None:
    """Write pictures as an animated GIF that starts again and again; the last one stays longest."""
    first, *rest = pictures
    times = [PAUSE] * len(rest) + [LAST]
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=times if rest else LAST, loop=0)
