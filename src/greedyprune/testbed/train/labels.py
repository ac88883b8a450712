"""Labels of the patches of a scene: the truth behind symbolic tokens, and the first targets of the tower."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from greedyprune.testbed.assets import DIGITS, LETTERS
from greedyprune.testbed.layout import COLOURS, PATCH, SHAPES, Object

KINDS = ("background", *SHAPES, "tile", "sign")
PAINTS = ("none", *COLOURS, "white")
CHARACTERS = LETTERS + DIGITS
SHOWN = 0.3  # of a patch must be covered by what it shows ...
HIDDEN = 0.03  # ... and less than this by anything for it to be background; in between it is left out of the loss


class Labels(NamedTuple):
    """One row for each scene, one column for each patch; -1 if there is no label. Each (b, n)."""

    kind: Tensor  # index into KINDS
    colour: Tensor  # index into PAINTS
    character: Tensor  # index into CHARACTERS: the digit of a tile, a character of a sign
    slot: Tensor  # which of its sign's three characters it is
    centre: Tensor  # 1 where a shape or tile has its middle
    unclear: Tensor  # 1 where too little of an object is seen to say anything
    side: Tensor  # pixels: the size of the shape; 0 elsewhere


def label(scenes: list[tuple[Object, ...]], size: tuple[int, int]) -> Labels:
    """The labels of scenes of one size (width, height)."""
    stacked = torch.from_numpy(np.stack([_label(objects, size) for objects in scenes]))
    return Labels(*stacked.flatten(2).unbind(1))


def _label(objects: tuple[Object, ...], size: tuple[int, int]) -> np.ndarray:
    columns, rows = (edge // PATCH for edge in size)
    found = np.zeros((7, rows, columns), np.int64)
    kind, colour, character, slot, centre, unclear, side = found
    character -= 1
    slot -= 1
    best = np.zeros((rows, columns))
    for thing in objects:
        window, share = _cover(thing.box)
        shown = (share > best[window]) & (share > SHOWN)
        unclear[window] |= (share > HIDDEN) & (share <= SHOWN)
        best[window] = np.where(shown, share, best[window])
        kind[window][shown] = KINDS.index(thing.kind)
        colour[window][shown] = PAINTS.index(thing.colour)
        character[window][shown] = CHARACTERS.index(thing.text) if thing.kind == "tile" else -1
        side[window][shown] = thing.side if thing.kind in SHAPES else 0
        if thing.kind == "sign":
            _spell(thing, character, slot)
        else:
            x, y = thing.centre
            centre[int(y) // PATCH, int(x) // PATCH] = 1
    unclear[kind > 0] = 0
    return found


def _spell(sign: Object, character: np.ndarray, slot: np.ndarray) -> None:
    left, top, _, bottom = sign.box
    for i, char in enumerate(sign.text):
        window, share = _cover((left + PATCH * i, top, left + PATCH * (i + 1), bottom))
        character[window][share > 0.4] = CHARACTERS.index(char)
        slot[window][share > 0.4] = i


def _cover(box: tuple[int, int, int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """The patches that a box touches, and how much of each it covers."""
    left, top, right, bottom = box
    x, y = np.arange(left // PATCH, (right - 1) // PATCH + 1), np.arange(top // PATCH, (bottom - 1) // PATCH + 1)
    across = np.minimum(right, (x + 1) * PATCH) - np.maximum(left, x * PATCH)
    down = np.minimum(bottom, (y + 1) * PATCH) - np.maximum(top, y * PATCH)
    return (slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)), down[:, None] * across / PATCH**2
