"""Pictures as users give them: a PIL image, the path of one, or an array of its bytes."""

from __future__ import annotations

import os
from typing import Any, Protocol, TypeAlias

from PIL import Image

from greedyprune.preprocessing.pictures import open_picture


class Array(Protocol):
    """The interface of an array that NumPy has."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Picture: TypeAlias = "Image.Image | str | os.PathLike[str] | Array"


def as_picture(given: Picture) -> Image.Image:
    """The picture as a PIL image. Raises TypeError for any other type, and what `open_picture` raises."""
    if isinstance(given, Image.Image):
        return given
    if isinstance(given, (str, os.PathLike)):
        return open_picture(given)
    layout: Any = getattr(given, "__array_interface__", None)
    remedy = "give a PIL image, the path of one, or an array (h, w, 3) of bytes."
    if layout is None:
        raise TypeError(f"the image is a {type(given).__name__}: {remedy}")
    shape, kind = tuple(layout["shape"]), layout["typestr"]
    if kind != "|u1" or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))) or 0 in shape:
        raise TypeError(f"the image is an array of shape {shape} and type {kind}: {remedy}")
    return Image.fromarray(given)
