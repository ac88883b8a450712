"""What `greedyprune run` asks, and about which pictures: the question, and the pictures of every prompt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from greedyprune.cli._errors import Failure, misuse, note
from greedyprune.cli._options import text_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STANDARD_INPUT = "-"


def question(ask: str | None, file: Path | None) -> str:
    """The question that --ask writes, or that the file of --prompt-file holds."""
    if (ask is None) == (file is None):
        raise misuse("write one question: --ask QUESTION, or --prompt-file FILE.")
    if file is None:
        option, text = "--ask", ask or ""
    else:
        option = "--prompt-file"
        text = (sys.stdin.read() if str(file) == STANDARD_INPUT else text_in(option, file)).strip()
    if not text.strip():
        raise misuse(f"{option} is empty: write a question.")
    return text


def prompts(given: Sequence[Path], together: bool) -> list[list[Path]]:
    """The pictures of every prompt: those named one by one share one, those of a folder have one each.

    `together`: all of them share one prompt.
    """
    named = [path for path in given if not path.is_dir()]
    held = [picture for folder in given if folder.is_dir() for picture in _pictures_in(folder)]
    if together:
        return [[*named, *held]]
    return [*([named] if named else []), *([picture] for picture in held)]


def _pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder, by name. Raises Failure if there are none, and says what else it holds."""
    from PIL import Image

    from greedyprune.preprocessing.clips import is_film
    from greedyprune.preprocessing.pictures import FORMATS

    known = Image.registered_extensions()
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    pictures = [
        path for path in entries if path.is_file() and (known.get(path.suffix.lower()) in FORMATS or is_film(path))
    ]
    others = [path.name for path in entries if path not in pictures]
    if not pictures:
        raise Failure(f"the folder {str(folder)!r} holds no picture: known are {', '.join(FORMATS)}.")
    if others:
        note(f"warning: {str(folder)!r} holds {len(others)} entries that are no pictures, such as {others[0]!r}.")
    return pictures
