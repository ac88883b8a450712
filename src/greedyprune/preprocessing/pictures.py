"""Pictures from files of unknown origin: opened with a bound on their size, by decoders of known formats.

Needs Pillow, which is imported when a picture is opened.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from PIL import Image

MOST_PIXELS = 50_000_000
"""A file of half a megabyte can hold more than these, which take 150 MB as RGB; no model sees as many."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
"""The formats that are read.

Not EPS, for which Pillow runs Ghostscript, nor rare formats with little-tested decoders.
"""


class TooLarge(ValueError):
    """A picture has more pixels than are read."""


def check_size(width: int, height: int, what: str = "the picture") -> None:
    """Raise TooLarge if the picture has more pixels than `MOST_PIXELS`."""
    if width * height > MOST_PIXELS:
        raise TooLarge(
            f"{what} has {width} x {height} pixels, and at most {MOST_PIXELS / 1e6:.0f} million are read: "
            "scale it down first."
        )


@contextmanager
def header_of(path: str | os.PathLike[str]) -> Generator[Image.Image]:
    """An open picture whose size is checked and whose pixels are not decoded yet.

    Raises TooLarge, and what Pillow raises: UnidentifiedImageError for what is none of `FORMATS`, OSError if damaged.
    """
    from PIL import Image

    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is lower
        try:
            image = Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
        except Image.DecompressionBombError as error:
            raise TooLarge(
                f"the picture is too large ({error}), and at most {MOST_PIXELS / 1e6:.0f} million pixels are read: "
                "scale it down first."
            ) from error
    with image:
        check_size(*image.size)
        yield image


def upright(image: Image.Image) -> Image.Image:
    """The whole picture in RGB, the right way up."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image).convert("RGB")


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """A picture in RGB, the right way up. Raises what `header_of` raises."""
    with header_of(path) as image:
        return upright(image)
