"""The picture that `greedyprune run --save` writes: what was kept of images, and of the frames of clips."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from greedyprune.cli._answer import Answer
    from greedyprune.cli._load import Loaded
    from greedyprune.preprocessing.clips import Clip
    from greedyprune.selection import Selection


def draw(loaded: Loaded, images: Sequence[Image.Image | Clip], pruned: Answer, ask: str, side: int, path: Path) -> None:
    """Write the overlay, of several images and of the frames of clips side by side. `side`: the longest, in pixels."""
    from greedyprune.outputs import replacing
    from greedyprune.plots import overlay, seen, side_by_side
    from greedyprune.preprocessing.clips import Clip

    drawn: list[Image.Image] = []
    captions: list[str] = []
    for shown, selection in zip(images, pruned.selections, strict=True):
        if isinstance(shown, Clip):
            _add_frames(shown, selection, side, drawn, captions)
        else:
            drawn.append(overlay(shown, selection, part=seen(shown, loaded.processor), size=side))
            captions.append(f"{selection.k} of {selection.n} tokens")
    title = f"{ask}\n{pruned.text}"
    sheet = side_by_side(drawn, captions, width=side, columns=min(len(drawn), 4), title=title)
    with replacing(path) as fresh:
        (drawn[0] if len(drawn) == 1 else sheet).save(fresh)


def _add_frames(clip: Clip, selection: Selection, side: int, drawn: list[Image.Image], captions: list[str]) -> None:
    """Draw every frame that the model made of a clip, over the middle one of the frames that it was made from."""
    from greedyprune.plots import overlay
    from greedyprune.plots.steps import by_frame

    parts, count = by_frame(selection), len(clip.frames)
    for at, (keep, grid) in enumerate(parts):
        frame = clip.frames[(2 * at + 1) * count // (2 * len(parts))]
        drawn.append(overlay(frame, keep, grid=grid, size=side))
        captions.append(f"{keep.k} of {keep.n} tokens")
