"""The images of a request: bytes out of a data URL or a fetched address, decoded within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greedyprune.preprocessing.pictures import (
    BadDataURL,
    Damaged,
    PictureError,
    TooLarge,
    Unsupported,
    data_of_url,
    read_picture,
)
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
REFUSALS = {
    TooLarge: (413, "image_too_large"),
    Unsupported: (400, "unsupported_image_type"),
    Damaged: (400, "damaged_image"),
    BadDataURL: (400, "invalid_image_url"),
}
"""Status and code of the errors of pictures."""


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
        try:
            data = _bytes_of(url, settings, deadline, number)
            picture = read_picture(data, f"image {number}", KNOWN, left)
        except PictureError as error:
            status, code = next(found for kind, found in REFUSALS.items() if isinstance(error, kind))
            raise Refused(status, code, str(error), param="image_url") from error
        left -= picture.width * picture.height
        found.append(picture)
    return found


def _bytes_of(url: str, settings: Settings, deadline: float, number: int) -> bytes:
    scheme = url[:8].lower().partition(":")[0]
    if scheme == "data":
        return data_of_url(url, f"image {number}", TYPES)
    if scheme == "https" and settings.allow_https:
        return fetch(url, settings.body_bytes, deadline)
    allowed = "a data URL or an https address" if settings.allow_https else "a data URL (data:image/png;base64,...)"
    raise invalid(
        f"image {number}: {shown(url)} is not read by this server: send {allowed}.", "image_url", "invalid_image_url"
    )
