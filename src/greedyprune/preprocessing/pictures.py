"""Open pictures from untrusted files, with a limit on their size, and only in known formats.

It needs Pillow, which is imported when a picture is opened.
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
"""The largest number of pixels that is read. They take 150 MB as RGB, and no model sees this many.

A file of half a megabyte can hold more."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
"""The formats that are read.

EPS is not among them, since Pillow runs Ghostscript for it. Rare formats with little-tested decoders are left out too.
"""


class TooLarge(ValueError):
    """The error for a picture with more pixels than `MOST_PIXELS`."""


def check_size(width: int, height: int, what: str = "the picture") -> None:
    """Raise TooLarge if the picture has more pixels than `MOST_PIXELS`. `what` names the picture in the message."""
    if width * height > MOST_PIXELS:
        raise TooLarge(
            f"{what} has {width} x {height} pixels, and at most {MOST_PIXELS / 1e6:.0f} million are allowed: "
            "scale it down first."
        )


@contextmanager
def header_of(path: str | os.PathLike[str]) -> Generator[Image.Image]:
    """Open a picture and check its size. Its pixels are not decoded yet.

    Raises TooLarge if it has too many pixels. Pillow raises UnidentifiedImageError if its format is none of `FORMATS`,
    and OSError if the file is damaged.
    """
    from PIL import Image

    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is lower
        try:
            image = Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
        except Image.DecompressionBombError as error:
            raise TooLarge(
                f"the picture is too large ({error}), and at most {MOST_PIXELS / 1e6:.0f} million pixels are allowed: "
                "scale it down first."
            ) from error
    with image:
        check_size(*image.size)
        yield image


def upright(image: Image.Image) -> Image.Image:
    """Return the picture in RGB, rotated by its EXIF orientation."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image).convert("RGB")


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Open a picture in RGB, rotated by its EXIF orientation. Raises the errors of `header_of`."""
    with header_of(path) as image:
        return upright(image)
