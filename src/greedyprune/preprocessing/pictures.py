"""Open pictures from untrusted files, with a limit on their size, and only in known formats.

It needs Pillow, which is imported when a picture is opened.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 50_000_000
"""The largest number of pixels that is read. They take 150 MB as RGB, and no model sees this many.

A file of half a megabyte can hold more."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
"""The formats that are read.

EPS is not among them, since Pillow runs Ghostscript for it. Rare formats with little-tested decoders are left out too.
"""


DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of grey pictures with more than 8 bits."""
RANGES = (1.0, 255.0, 65535.0)
"""The largest values of usual pictures: shares, 8 bits and 16 bits."""


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
def header_of(path: str | os.PathLike[str] | IO[bytes], formats: Sequence[str] = FORMATS) -> Generator[Image.Image]:
    """Open a picture, a path or a file with its bytes, and check its size. Its pixels are not decoded yet.

    Raises TooLarge if it has too many pixels. Pillow raises UnidentifiedImageError if its format is none of `formats`,
    and OSError if the file is damaged.
    """
    from PIL import Image

    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is lower
        try:
            image = Image.open(path, formats=[name for name in formats if name in Image.OPEN])
        except Image.DecompressionBombError as error:
            raise TooLarge(
                f"the picture is too large ({error}), and at most {MOST_PIXELS / 1e6:.0f} million pixels are allowed: "
                "scale it down first."
            ) from error
    with image:
        check_size(*image.size)
        yield image


def frames_of(image: Image.Image) -> int:
    """The number of frames or pages of a picture. A photo that carries a smaller copy of itself has one."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def rgb(image: Image.Image) -> Image.Image:
    """Return the picture in RGB. Values beyond 8 bits are scaled to 0..255, where Pillow clips them to white.

    The range that is scaled is the first of 0..1, 0..255 and 0..65535 that holds all values, else from the smallest
    value to the largest.
    """
    if image.mode not in DEEP:
        return image.convert("RGB")
    values = image.convert("I").convert("F") if image.mode.startswith("I") else image
    low, high = (float(bound) for bound in values.getextrema())  # pyright: ignore[reportArgumentType] - one band
    top = next((top for top in RANGES if low >= 0 and high <= top), None)
    low, high = (low, high) if top is None else (0.0, top)
    scale = 255 / ((high - low) or 1.0)
    return values.point(lambda value: value * scale + (0.5 - low * scale)).convert("L").convert("RGB")


def upright(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    """Return the first frame of an open picture in RGB, rotated by its EXIF orientation. Warns if there are others."""
    from PIL import ImageOps

    if (frames := frames_of(image)) > 1:
        warnings.warn(
            f"{os.fspath(path)!r} has {frames} pages or frames, and the first one is read: save another one as a "
            "picture of its own.",
            UserWarning,
            stacklevel=3,
        )
    return rgb(ImageOps.exif_transpose(image))


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Open a picture in RGB, rotated by its EXIF orientation. Raises the errors of `header_of`."""
    with header_of(path) as image:
        return upright(image, path)
