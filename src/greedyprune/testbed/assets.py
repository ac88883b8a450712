"""The material of scenes: photos, handwritten digits and fonts from other packages, separate for each split.

| split | background photos | handwritten digits | fonts |
|---|---|---|---|
| train | 13 photos | 1,400 | nine, upright and slanted |
| dev | 4 other photos | 100 others | two others |
| test | 4 other photos | 297 others | three others |

So no split shares a photo, a digit or a font with another. Nothing is ever downloaded.
"""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits, load_sample_images

SPLITS = ("train", "dev", "test")
# Letters that no font here confuses with each other or with a digit.
LETTERS = "ACEHJKLNPTUX"
DIGITS = "0123456789"
PHOTOS = {
    "train": (
        "astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png", "hubble_deep_field.jpg",
        "ihc.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "china.jpg", "flower.jpg",
    ),
    "dev": ("camera.png", "coins.png", "moon.png", "page.png"),
    "test": ("cell.png", "clock_motion.png", "retina.jpg", "text.png"),
}  # fmt: skip
FONTS = {
    "train": (
        "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-BoldOblique",
        "DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneralBol", "cmb10",
    ),
    "dev": ("DejaVuSans-BoldOblique", "STIXGeneralBolIta"),
    "test": ("DejaVuSansMono-Bold", "DejaVuSerif-Bold", "cmss10"),
}  # fmt: skip
GLYPH = (14, 22)  # pixels of one letter, width and height: as wide as a patch

Pixels = NDArray[np.float32]


@cache
def photos(split: str) -> tuple[Image.Image, ...]:
    """The background photos of a split."""
    bundled = dict(zip(("china.jpg", "flower.jpg"), load_sample_images().images, strict=True))
    return tuple(Image.fromarray(bundled[name]) if name in bundled else _photo(name) for name in PHOTOS[split])


@cache
def handwriting(split: str) -> NDArray[np.int64]:
    """The numbers of scikit-learn's 1,797 digits that a split may use."""
    # A fixed permutation: another one would turn digits a model was trained on into test digits.
    order = np.random.default_rng(0).permutation(len(digits()[1]))
    first, last = {"train": (0, 1400), "dev": (1400, 1500), "test": (1500, None)}[split]
    return order[first:last]


@cache
def digits() -> tuple[Pixels, NDArray[np.int64]]:
    """All handwritten digits: ink from 0 to 1, and what they mean. -> (1797, 8, 8), (1797,)"""
    pixels, labels = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 8, 8) / 16).astype(np.float32), labels.astype(np.int64)


@cache
def letter(char: str, font: str, hand: int = 0) -> Pixels:
    """The ink of one letter or digit in a font, as large as fits the width of a patch. -> (22, 14)

    Hand 0 sets it as the font has it; the others slant, stretch, shift and thicken it a little, each in its own way.
    """
    mask = Image.new("L", GLYPH, 0)
    x, y = GLYPH[0] / 2, GLYPH[1] / 2
    ImageDraw.Draw(mask).text((x, y), char, font=_typeface(font), fill=255, anchor="mm")
    if not hand:
        return coverage(mask)
    rng = np.random.default_rng(hand)
    wide, high, slant = rng.uniform(0.95, 1.3), rng.uniform(0.85, 1.25), rng.uniform(-0.22, 0.22)
    right, down, ink = rng.uniform(-1, 1), rng.uniform(-2, 2), rng.uniform(0.5, 1.6)
    # Where each pixel comes from: the middle stays in the middle, but for the shift.
    across = (wide, slant, x - wide * (x + right) - slant * (y + down))
    along = (0.0, high, y - high * (y + down))
    moved = mask.transform(GLYPH, Image.Transform.AFFINE, (*across, *along), Image.Resampling.BICUBIC)
    return coverage(moved) ** np.float32(ink)


def coverage(mask: Image.Image) -> Pixels:
    """A grey image as numbers: 0 where it is black, 1 where it is white. -> (h, w)"""
    return np.divide(np.asarray(mask), 255, dtype=np.float32)


@cache
def _typeface(font: str) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    for size in range(20, 8, -1):
        typeface = ImageFont.truetype(path, size)
        boxes = [typeface.getbbox(char) for char in LETTERS + DIGITS]
        if max(box[2] - box[0] for box in boxes) <= GLYPH[0]:
            return typeface
    raise ValueError(f"{path} has no size whose letters are at most {GLYPH[0]} pixels wide.")


def _photo(name: str) -> Image.Image:
    # Read as a file: scikit-image's own loader would download what its wheel lacks.
    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: this scikit-image does not ship {name}; install scikit-image 0.26, which does."
        )
    with Image.open(path) as image:
        return image.convert("RGB")
