"""Items: one question about one image each, with the answers that count as right, and how an answer is scored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from greedyprune.ops.grid import Box


@dataclass(frozen=True, eq=False)
class Item:
    """One question with its image."""

    name: str
    """What an error and a run folder call it; no two items of a run share one."""
    task: str
    image: Any
    """A PIL image, or the path of one."""
    picture: str
    """Which image this is: items with the same name here share one, and intervals count them together."""
    text: str
    answers: tuple[str, ...]
    """Every answer that is right; the first is the usual one."""
    boxes: tuple[Box, ...] = ()
    """The parts of the image that carry the answer: left, top, right, bottom in pixels; empty if none, or unsaid."""
    guesses: tuple[str, ...] = ()
    """What someone would guess among who knows which values occur in the image but not where; empty if unknown."""

    def open(self) -> Any:
        """The image in RGB."""
        if not isinstance(self.image, Path):
            return self.image
        from greedyprune.images.pictures import open_picture

        return open_picture(self.image)

    def right(self, told: str) -> bool:
        """Is it one of the right answers, word for word, whatever the case and the punctuation?"""
        return words(told) in [words(answer) for answer in self.answers]

    @property
    def guess_rate(self) -> float | None:
        """How often a draw from the guesses is right."""
        return sum(map(self.right, self.guesses)) / len(self.guesses) if self.guesses else None


class Task(Protocol):
    """Where items come from."""

    def items(self) -> list[Item]:
        """The same ones at every call."""
        ...


def words(text: str) -> list[str]:
    """An answer as it is compared."""
    return re.findall(r"\w+", text.casefold())


def checked(items: Iterable[Item]) -> list[Item]:
    """The items as a list, if they can be evaluated."""
    listed = list(items)
    if not listed:
        raise ValueError("there are no questions to evaluate: a task gave none.")
    seen: set[str] = set()
    for item in listed:
        if item.name in seen:
            raise ValueError(f"two items are called {item.name!r}: give every question a name of its own.")
        if not any(words(answer) for answer in item.answers):
            raise ValueError(f"item {item.name!r} has no answer that could be right: give it one with a word in it.")
        seen.add(item.name)
    return listed


def digest(items: Sequence[Item]) -> str:
    """What distinguishes these questions from any others: texts, answers, regions and pixels."""
    sha, pictures = hashlib.sha256(), set[str]()
    for item in items:
        sha.update(repr((item.name, item.task, item.picture, item.text, item.answers, item.boxes)).encode())
        if item.picture not in pictures:
            pictures.add(item.picture)
            if isinstance(item.image, Path):
                with item.image.open("rb") as file:
                    while part := file.read(1 << 20):  # a file may be larger than memory
                        sha.update(part)
            else:
                sha.update(item.image.tobytes())
    return sha.hexdigest()[:16]
