"""The layout of a scene: signs with three characters, tiles with a digit, plain shapes; nothing overlaps."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from greedyprune.testbed.assets import DIGITS, FONTS, LETTERS, digits, handwriting

PATCH = 14  # pixels of a patch, that is of a visual token, both ways
SIZES = ((168, 168), (140, 196), (196, 140), (154, 182), (182, 154))  # of scenes, width and height; about 144 patches
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
SHAPE_SIDES = range(20, 46, 2)
TILE_SIDES = (28, 28, 30, 34)
SIGN_SIZE = (42, 24)
FEWEST = 6  # objects of a scene

COUNTS = ((0, 1, 2, 2), (0, 2, 3), (4, 5, 6, 7, 8, 9))  # signs, tiles and shapes of a scene
CROWDED = ((3, 4, 5), (4, 5, 6, 7), (4, 5, 6))  # for training a tower: more to read

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside
Rng = np.random.Generator
Counts = Sequence[Sequence[int]]
T = TypeVar("T")


class Object(NamedTuple):
    """One thing in a scene."""

    kind: str  # one of SHAPES, "tile" or "sign"
    colour: str  # one of COLOURS; "white" or "black" for the ground of a sign
    box: Box
    text: str = ""  # the three letters or three digits of a sign, the digit of a tile
    paint: tuple[float, float, float] = (0.0, 0.0, 0.0)  # the colour as it is drawn: RGB with some jitter
    font: str = ""  # what a sign is set in
    glyph: int = 0  # which handwritten digit is on a tile, in which hand a sign is set

    @property
    def sort(self) -> str:
        """The sort of thing it is: "shape", "tile" or "sign"."""
        return "shape" if self.kind in SHAPES else self.kind

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box: x, y."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def side(self) -> int:
        """The width of the box; a shape's box is a square."""
        return self.box[2] - self.box[0]


def one(rng: Rng, found: Sequence[T]) -> T:
    """One of them, at random."""
    return found[int(rng.integers(len(found)))]


def layout(rng: Rng, split: str, size: tuple[int, int], counts: Counts = COUNTS, hands: int = 1) -> tuple[Object, ...]:
    """Place signs, tiles and shapes; each number is drawn from its range. An object without a free place is left out.

    Six objects stay at least. Nothing sensible can be asked where there are more than 2 signs or 8 tiles.
    """
    while True:
        found = (*_place(rng, split, size, counts, hands),)
        if len(found) >= FEWEST:
            return found


def _place(rng: Rng, split: str, size: tuple[int, int], counts: Counts, hands: int) -> Iterator[Object]:
    taken = _Taken(size)
    signs, tiles, shapes = (one(rng, choices) for choices in counts)
    yield from _signs(rng, signs, split, hands, taken)
    yield from _tiles(rng, tiles, handwriting(split).tolist(), taken)
    yield from _shapes(rng, shapes, taken)


def _signs(rng: Rng, count: int, split: str, hands: int, taken: "_Taken") -> Iterator[Object]:
    for dark in rng.permutation(max(2, count))[:count] % 2:
        characters = LETTERS if rng.random() < 0.6 else DIGITS
        text = "".join(characters[i] for i in rng.integers(0, len(characters), 3))
        # A step of one patch puts each letter into one column of patches.
        box = taken.free(rng, SIGN_SIZE, (PATCH, PATCH // 2))
        if box:
            paint = (20.0, 20.0, 20.0) if dark else (240.0, 240.0, 240.0)
            hand = int(rng.integers(hands))
            yield Object("sign", "black" if dark else "white", box, text, paint, one(rng, FONTS[split]), hand)


def _tiles(rng: Rng, count: int, glyphs: Sequence[int], taken: "_Taken") -> Iterator[Object]:
    for colour in rng.permutation(_COLOURS)[:count]:
        side = one(rng, TILE_SIDES)
        box = taken.free(rng, (side, side), (PATCH // 2, PATCH // 2))
        if box:
            glyph = one(rng, glyphs)
            yield Object("tile", str(colour), box, str(digits()[1][glyph]), _paint(rng, colour, 10), glyph=glyph)


def _shapes(rng: Rng, count: int, taken: "_Taken") -> Iterator[Object]:
    # Few colours in some scenes, so that several objects share one; each kind drawn once before any comes twice.
    palette = rng.permutation(_COLOURS)[: rng.integers(3, 9)]
    kinds = rng.permutation(SHAPES)[: rng.integers(3, 7)]
    again = kinds[rng.integers(0, len(kinds), max(0, count - len(kinds)))]
    for kind in (*kinds, *again)[:count]:
        side = one(rng, SHAPE_SIDES)
        box = taken.free(rng, (side, side), (1, 1))
        if box:
            colour = str(palette[int(rng.integers(len(palette)))])
            yield Object(str(kind), colour, box, paint=_paint(rng, colour, 12))


_COLOURS = tuple(COLOURS)


def _paint(rng: Rng, colour: str, jitter: float) -> tuple[float, float, float]:
    red, green, blue = rng.normal(0, jitter, 3) + COLOURS[colour]
    return float(red), float(green), float(blue)


class _Taken:
    """The boxes of a scene so far, and a search for free places."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.boxes = np.zeros((0, 4), np.int64)

    def free(self, rng: Rng, size: tuple[int, int], step: tuple[int, int], tries: int = 30, gap: int = 2) -> Box | None:
        """A box on the lattice given by `step`, at least two pixels from every other; None if no try finds one."""
        (width, height), (across, down) = size, step
        left = rng.integers(0, (self.size[0] - width) // across + 1, tries) * across
        top = rng.integers(0, (self.size[1] - height) // down + 1, tries) * down
        box = np.stack([left, top, left + width, top + height], 1)
        a, b = box[:, None], self.boxes[None]
        apart = ((a[..., 2:] + gap <= b[..., :2]) | (b[..., 2:] + gap <= a[..., :2])).any(-1).all(-1)
        if not apart.any():
            return None
        chosen = box[apart.argmax()]
        self.boxes = np.concatenate([self.boxes, chosen[None]])
        left, top, right, bottom = chosen.tolist()
        return left, top, right, bottom
