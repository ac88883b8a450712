"""Open pictures from untrusted files, with a limit on their size, and only in known formats.

It needs Pillow, which is imported when a picture is opened.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import warnings
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from greedyprune.shown import shown

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


class PictureError(ValueError):
    """The error for a picture that is not read."""


class TooLarge(PictureError):
    """The error for a picture with more pixels than `MOST_PIXELS`, or than are left to it."""


class Unsupported(PictureError):
    """The error for a picture of an unknown format, or of several frames."""


class Damaged(PictureError):
    """The error for a picture of a known format that cannot be decoded."""


class BadDataURL(PictureError):
    """The error for a data URL that holds no base64."""


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


@contextmanager
def named(what: str, formats: Sequence[str] = FORMATS) -> Generator[None]:
    """Inside, an error about a picture becomes a PictureError whose message begins with its name, `what`."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except TooLarge as error:
        raise TooLarge(f"{what} is not read: {error}") from error
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise Unsupported(f"{what} is no image that is read: known are {', '.join(formats)}.") from error
    except FileNotFoundError as error:
        raise PictureError(f"{what}: there is no such file.") from error
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise Damaged(f"{what} cannot be read, it may be damaged: {why}.") from error


def read_picture(
    given: bytes | str | os.PathLike[str], what: str, formats: Sequence[str] = FORMATS, most: int = MOST_PIXELS
) -> Image.Image:
    """Read a picture of one frame, a path or the bytes of a file, in RGB and rotated by its EXIF orientation.

    `what`: its name in messages, such as "image 0". `formats`: those that are read. `most`: the number of pixels that
    are left to it. Raises TooLarge, Unsupported (of another format, or of several frames) or Damaged, and PictureError
    if there is no such file.
    """
    from PIL import ImageOps

    with named(what, formats), header_of(io.BytesIO(given) if isinstance(given, bytes) else given, formats) as image:
        if image.width * image.height > most:
            raise TooLarge(
                f"it has {image.width} x {image.height} pixels, and at most {most} are left to it: scale it down first."
            )
        if (frames := frames_of(image)) > 1:
            raise Unsupported(f"{what} has {frames} frames or pages: save each as a picture of its own.")
        return rgb(ImageOps.exif_transpose(image))


def data_of_url(url: str, what: str = "the picture", types: Collection[str] | None = None) -> bytes:
    """The bytes that a data URL, data:image/png;base64,..., holds. Spaces and line breaks in it are passed over.

    `what`: the picture's name in messages. `types`: those that may be named, such as "image/png"; None for all. Raises
    BadDataURL, or Unsupported for another type.
    """
    head, comma, data = url.partition(",")
    kind, *more = head.lower().removeprefix("data:").split(";")
    if not comma or "base64" not in more:
        raise BadDataURL(f"{what}: the data URL {shown(url)} is not in base64: write data:image/png;base64,...")
    if types is not None and kind not in types:
        raise Unsupported(f"{what} is of type {shown(kind)}: send one of {', '.join(types)}.")
    try:
        return base64.b64decode(re.sub(r"\s", "", data).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise BadDataURL(f"{what}: the data URL {shown(url)} holds no valid base64.") from error
