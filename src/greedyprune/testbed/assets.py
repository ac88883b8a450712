"""What scenes are made of: photos, handwritten digits and fonts that ship inside other packages, kept apart by split.

| split | background photos | handwritten digits |
|---|---|---|
| train | the 17 photos the bundled model was trained on | the 1,400 digits it was trained on |
| dev | the same 17 photos, in other crops | 100 digits it has never seen |
| test | four photos it has never seen | 297 other digits it has never seen |

So dev and test share neither a photo nor a digit, but dev's backgrounds are no news to the model. The four unseen
photos are smoother than some of the others. The fonts are the same everywhere. Nothing is ever downloaded.
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
LETTERS = "ABCEHKLNOSTX"
TRAINING_PHOTOS = (
    "astronaut.png", "brick.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg",
    "page.png", "camera.png",
)  # fmt: skip
UNSEEN_PHOTOS = ("retina.jpg", "clock_motion.png", "cell.png", "text.png")
FONTS = tuple(
    (name, size)
    for name in ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif-Bold")
    for size in (16, 18)
)

Pixels = NDArray[np.float32]


def photos(split: str) -> tuple[Image.Image, ...]:
    """The background photos of a split."""
    return _unseen_photos() if split == "test" else _training_photos()


def handwriting(split: str) -> NDArray[np.int64]:
    """Which of scikit-learn's 1,797 digits a split may use."""
    # The permutation and the cut at 1,400 are those of the training run; changing them would leak training digits.
    order = np.random.default_rng(0).permutation(len(digits()[1]))
    first, last = {"train": (0, 1400), "dev": (1400, 1500), "test": (1500, None)}[split]
    return order[first:last]


@cache
def digits() -> tuple[Pixels, NDArray[np.int64]]:
    """All handwritten digits: ink from 0 to 1, and what they mean. -> (1797, 8, 8), (1797,)"""
    pixels, labels = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 8, 8) / 16).astype(np.float32), labels.astype(np.int64)


@cache
def letter(char: str, font: int) -> Pixels:
    """The ink of one letter, 14 pixels wide: as wide as a patch. -> (22, 14)"""
    name, size = FONTS[font]
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    mask = Image.new("L", (14, 22), 0)
    ImageDraw.Draw(mask).text((7, 11), char, font=ImageFont.truetype(path, size), fill=255, anchor="mm")
    return coverage(mask)


def coverage(mask: Image.Image) -> Pixels:
    """A grey image as numbers: 0 where it is black, 1 where it is white. -> (h, w)"""
    return np.divide(np.asarray(mask), 255, dtype=np.float32)


@cache
def _training_photos() -> tuple[Image.Image, ...]:
    bundled = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return (*map(_photo, TRAINING_PHOTOS), *bundled)


@cache
def _unseen_photos() -> tuple[Image.Image, ...]:
    return tuple(map(_photo, UNSEEN_PHOTOS))


def _photo(name: str) -> Image.Image:
    # Read as a file: scikit-image's own loader would download what its wheel lacks.
    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: this scikit-image does not ship {name}; install scikit-image 0.26, which does."
        )
    with Image.open(path) as image:
        return image.convert("RGB")
