"""What stands where in a scene: signs with three letters, tiles with a digit, and plain shapes, never overlapping."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greedyprune.testbed.assets import FONTS, LETTERS, digits

SIDE = 168  # pixels of a scene, both ways
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 40),
    "blue": (35, 60, 220),
    "yellow": (235, 220, 40),
    "purple": (140, 40, 170),
    "orange": (245, 135, 20),
    "cyan": (40, 205, 215),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SHAPE_SIZES = range(22, 44, 2)
TILE_SIZES = (28, 28, 30, 34)
SIGN_SIZE = (42, 24)

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside


@dataclass(frozen=True)
class Object:
    """One thing in a scene."""

    kind: str  # one of SHAPES, "tile" or "sign"
    colour: str  # one of COLOURS; "white" or "black" for the ground of a sign
    box: Box
    text: str = ""  # the three letters of a sign, the digit of a tile
    paint: tuple[float, float, float] = (0.0, 0.0, 0.0)  # the colour as it is drawn: RGB with some jitter
    glyph: int = 0  # which font a sign is set in, which handwritten digit is on a tile

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box: x, y."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


def layout(rng: np.random.Generator, handwriting: NDArray[np.int64]) -> tuple[Object, ...]:
    """Up to 2 signs, up to 3 tiles and up to 8 shapes: what finds no free place within 30 tries is left out."""
    signs, tiles, shapes = int(rng.integers(0, 3)), int(rng.integers(0, 4)), int(rng.integers(3, 9))
    taken: list[Box] = []
    return (*_signs(rng, signs, taken), *_tiles(rng, tiles, handwriting, taken), *_shapes(rng, shapes, taken))


def _signs(rng: np.random.Generator, count: int, taken: list[Box]) -> Iterator[Object]:
    for dark in rng.permutation(2)[:count]:
        text = "".join(LETTERS[i] for i in rng.integers(0, len(LETTERS), 3))
        # A step of 14 puts each letter into one column of patches.
        box = _free(rng, SIGN_SIZE, (14, 7), taken)
        if box:
            paint = (20.0, 20.0, 20.0) if dark else (240.0, 240.0, 240.0)
            yield Object("sign", "black" if dark else "white", box, text, paint, int(rng.integers(len(FONTS))))


def _tiles(rng: np.random.Generator, count: int, handwriting: NDArray[np.int64], taken: list[Box]) -> Iterator[Object]:
    for colour in rng.permutation(list(COLOURS))[:count]:
        side = TILE_SIZES[rng.integers(len(TILE_SIZES))]
        box = _free(rng, (side, side), (7, 7), taken)
        if box:
            glyph = int(rng.choice(handwriting))
            yield Object("tile", str(colour), box, str(digits()[1][glyph]), _paint(rng, colour, 10), glyph)


def _shapes(rng: np.random.Generator, count: int, taken: list[Box]) -> Iterator[Object]:
    # Few colours in some scenes, so that several objects share one.
    palette = rng.permutation(list(COLOURS))[: rng.integers(3, 9)]
    for _ in range(count):
        side = int(rng.choice(SHAPE_SIZES))
        box = _free(rng, (side, side), (1, 1), taken)
        if box:
            shape = SHAPES[rng.integers(len(SHAPES))]
            colour = str(palette[rng.integers(len(palette))])
            yield Object(shape, colour, box, paint=_paint(rng, colour, 12))


def _paint(rng: np.random.Generator, colour: str, jitter: float) -> tuple[float, float, float]:
    red, green, blue = COLOURS[colour] + rng.normal(0, jitter, 3)
    return float(red), float(green), float(blue)


def _free(rng: np.random.Generator, size: tuple[int, int], step: tuple[int, int], taken: list[Box]) -> Box | None:
    """A box on the lattice given by `step`, at least two pixels from every box in `taken`, to which it is added."""
    width, height = size
    for _ in range(30):
        left = int(rng.integers(1, SIDE - width)) // step[0] * step[0]
        top = int(rng.integers(1, SIDE - height)) // step[1] * step[1]
        box = left, top, left + width, top + height
        if all(_apart(box, other) for other in taken):
            taken.append(box)
            return box
    return None


def _apart(a: Box, b: Box, gap: int = 2) -> bool:
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]
