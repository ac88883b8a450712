"""Rows: one question about the images of a row, read from plain values that may come from strangers.

    {"id": "page-7", "image": "pages/7.png", "question": "What is the total?", "greedyprune": {"keep": 64}}

`image` is one picture, `images` a list of them; a row without either is a question alone. A picture is a path below
the root folder, a data URL ("data:image/png;base64,..."), bytes, or a dict with "bytes" or "path", as data sets hold
them. `id` is the number of the row, from 0, if it is left out. `greedyprune` changes the pruning of this row; methods
in it are registered names, so that a file imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from greedyprune.naming import read_wish
from greedyprune.preprocessing.pictures import data_of_url, read_picture
from greedyprune.shown import shown

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Row:
    """One question."""

    id: int | str
    question: str
    images: tuple[Path | bytes, ...] = ()
    """A path, or the bytes of a file."""
    wish: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of `Pruned.request` that differ from the run's own."""


def row_of(given: Mapping[str, Any], root: Path, question: str | None = None) -> Row:
    """Read a row. Paths of images start at `root` and stay below it; `question` is asked if the row has none.

        row_of({"id": 1, "image": "a.png"}, Path("pages"), "What is it?")

    Raises ValueError or TypeError, which names the field and the value.
    """
    asked = given.get("question", question)
    if not isinstance(asked, str) or not asked.strip():
        raise ValueError(
            'the row has no question: write "question", or ask one of all rows with --ask.'
            if "question" not in given
            else f'"question" is {shown(asked)}: write a text that is not empty.'
        )
    several: Any = given.get("images", ())
    if not isinstance(several, (list, tuple)):
        raise TypeError(f'"images" is {shown(several)}: write a list of pictures, or one "image".')
    if "image" in given and several:
        raise ValueError('the row has "image" and "images": write one of them.')
    pictures = [given["image"]] if "image" in given else list(cast("list[Any]", several))
    images = tuple(_picture(each, root) for each in pictures)
    return Row(id_of(given), asked, images, _wish(given.get("greedyprune", {})))


def id_of(given: Mapping[str, Any]) -> int | str:
    """The id of a row. Raises TypeError if it is neither a text nor a whole number."""
    found = given["id"]
    if isinstance(found, bool) or not isinstance(found, (int, str)):
        raise TypeError(f'"id" is {shown(found)}: write a text or a whole number.')
    return found


def open_image(given: Path | bytes) -> Image.Image:
    """Open a picture of a row: RGB, the right way up. Raises PictureError, which names it, if it cannot be read."""
    return read_picture(
        given, f"the picture of {len(given)} bytes" if isinstance(given, bytes) else f"image {str(given)!r}"
    )


def _picture(given: Any, root: Path) -> Path | bytes:
    if isinstance(given, Mapping):
        held = cast("Mapping[str, Any]", given)
        given = held.get("bytes") or held.get("path")
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    if not isinstance(given, str) or not given:
        raise TypeError(f'"image" is {shown(given)}: write a path, a data URL or bytes.')
    return data_of_url(given) if given[:5].lower() == "data:" else _below(root, given)


def _below(root: Path, given: str) -> Path:
    """The path of a file below the root, links followed."""
    try:
        real, top = (root / given).resolve(), root.resolve()
        given.encode("utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"image {shown(given)} is no name of a file: {error}.") from error
    if not real.is_relative_to(top):
        raise ValueError(f"image {shown(given)} is not below {str(root)!r}: name a folder that holds all with --root.")
    return real


def _wish(given: Any) -> Mapping[str, Any]:
    """The pruning that a row wishes, as arguments of `Pruned.request`."""
    if not isinstance(given, Mapping):
        raise TypeError(f'"greedyprune" is {shown(given)}: write an object such as {{"keep": 64}}.')
    return read_wish(cast("Mapping[str, Any]", given), 'field of "greedyprune"', own=False)
