"""The images of a request: bytes out of a data URL or a fetched address, decoded within limits."""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import TYPE_CHECKING

from greedyprune.preprocessing.pictures import TooLarge, frames_of, header_of, rgb
from greedyprune.server.errors import Refused, invalid
from greedyprune.server.fetching import fetch
from greedyprune.shown import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from greedyprune.server.settings import Settings

KNOWN = ("PNG", "JPEG", "MPO", "WEBP", "GIF")
"""The formats that are read, as OpenAI's interface does. Decoders that are used less are not offered to strangers."""
TYPES = ("image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif")


def pictures_of(urls: Sequence[str], settings: Settings, deadline: float) -> list[Image.Image]:
    """Decode the images of one request, in RGB and the right way up.

    `deadline`: in seconds of `time.monotonic`. Raises Refused, with the number of the image, if one of them is not
    allowed, cannot be read, or goes beyond a limit.
    """
    if len(urls) > settings.images:
        raise invalid(
            f"the request holds {len(urls)} images, and this server takes at most {settings.images}: send fewer.",
            "messages",
            "too_many_images",
        )
    found: list[Image.Image] = []
    left = settings.pixels
    for number, url in enumerate(urls):
        picture = _decoded(_bytes_of(url, settings, deadline, number), number, left)
        left -= picture.width * picture.height
        found.append(picture)
    return found


def _bytes_of(url: str, settings: Settings, deadline: float, number: int) -> bytes:
    scheme = url[:8].lower().partition(":")[0]
    if scheme == "data":
        return _bytes_of_data(url, number)
    if scheme == "https" and settings.allow_https:
        return fetch(url, settings.body_bytes, deadline)
    allowed = "a data URL or an https address" if settings.allow_https else "a data URL (data:image/png;base64,...)"
    raise invalid(
        f"image {number}: {shown(url)} is not read by this server: send {allowed}.", "image_url", "invalid_image_url"
    )


def _bytes_of_data(url: str, number: int) -> bytes:
    """The bytes that a data URL holds."""
    head, comma, data = url[5:].partition(",")
    kind, *more = head.lower().split(";")
    if not comma or "base64" not in more:
        raise invalid(
            f"image {number}: the data URL is not in base64: write data:image/png;base64,...",
            "image_url",
            "invalid_image_url",
        )
    if kind not in TYPES:
        raise invalid(
            f"image {number} is of type {shown(kind)}: send one of {', '.join(TYPES)}.",
            "image_url",
            "unsupported_image_type",
        )
    try:
        return base64.b64decode(re.sub(r"\s", "", data).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise invalid(
            f"image {number}: the data URL holds no valid base64.", "image_url", "invalid_image_url"
        ) from error


def _decoded(data: bytes, number: int, left: int) -> Image.Image:
    """Decode one image. `left`: the number of pixels that the request may still hold."""
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with header_of(io.BytesIO(data), KNOWN) as image:
            if image.width * image.height > left:
                raise TooLarge(
                    f"it has {image.width} x {image.height} pixels, and the request may hold {left} more: scale it "
                    "down first."
                )
            if (frames := frames_of(image)) > 1:
                raise invalid(
                    f"image {number} has {frames} frames, and animations are not supported: send one frame.",
                    "image_url",
                    "unsupported_image_type",
                )
            return rgb(ImageOps.exif_transpose(image))
    except TooLarge as error:
        raise Refused(413, "image_too_large", f"image {number} is not read: {error}", param="image_url") from error
    except UnidentifiedImageError as error:
        raise invalid(
            f"image {number} is no image that is read: known are {', '.join(KNOWN)}.",
            "image_url",
            "unsupported_image_type",
        ) from error
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise invalid(f"image {number} cannot be read, it may be damaged.", "image_url", "damaged_image") from error
