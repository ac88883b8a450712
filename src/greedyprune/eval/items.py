"""Items: one question about one image each, with the answers that count as right, and how an answer is scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from greedyprune.eval.scoring import score, words
from greedyprune.ops.grid import Box

QUESTION = "{question}"
"""The place of the question in a template."""
HALF = 0.5
"""The score from which an answer counts as right."""


@dataclass(frozen=True, eq=False)
class Item:
    """One question with its image."""

    name: str
    """The name in errors and run folders. No two items of a run share one."""
    task: str
    image: Any
    """A PIL image, or the path of one."""
    picture: str
    """The name of the image. Items with the same name here share one image, and intervals resample them together."""
    text: str
    answers: tuple[str, ...]
    """The right answers; the first is the usual one."""
    boxes: tuple[Box, ...] = ()
    """Boxes around what carries the answer: left, top, right, bottom in pixels. Empty if unknown."""
    guesses: tuple[str, ...] = ()
    """Answers that are plausible without looking closely: values that occur in the image. Empty if unknown."""
    others: tuple[Box, ...] = ()
    """Boxes around the other things of the sort that is asked about. Empty if unknown; no answer depends on them."""
    before: tuple[tuple[str, str], ...] = ()
    """The turns before this question, about the same image: each a question and its answer."""
    metric: str = "exact"
    """The name in `scoring.METRICS` of the rule by which an answer is scored."""

    def open(self) -> Any:
        """The image in RGB."""
        if not isinstance(self.image, Path):
            return self.image
        from greedyprune.preprocessing.pictures import open_picture

        return open_picture(self.image)

    def score(self, told: str) -> float:
        """How right an answer is by the item's metric. -> 0 to 1"""
        return score(self.metric, told, self.answers)

    def right(self, told: str) -> bool:
        """True if an answer is right, of a metric with steps at least half right."""
        return self.score(told) >= HALF

    @property
    def guess_rate(self) -> float | None:
        """The mean score of the guesses."""
        return sum(map(self.score, self.guesses)) / len(self.guesses) if self.guesses else None


class Task(Protocol):
    """A source of items."""

    def items(self) -> list[Item]:
        """The items; the same ones at every call."""
        ...


def asked(items: Iterable[Item], template: str = QUESTION, metric: str | None = None) -> list[Item]:
    """The same items, each question put into a template, and scored by another metric if one is named.

    asked(items, "{question}\nAnswer with one word.", "contains")
    """
    return [replace(item, text=template.replace(QUESTION, item.text), metric=metric or item.metric) for item in items]


def checked(items: Iterable[Item]) -> list[Item]:
    """Check the items. Raises ValueError if there are none, if two share a name, or if one has no right answer."""
    listed = list(items)
    if not listed:
        raise ValueError("there are no questions to evaluate: a task gave none.")
    seen: set[str] = set()
    for item in listed:
        if item.name in seen:
            raise ValueError(f"two items are called {item.name!r}: give every question a name of its own.")
        if not any(words(answer) for answer in item.answers):
            raise ValueError(f"item {item.name!r} has no answer that could be right: give it one with a word in it.")
        if not any(map(item.score, item.answers)):
            raise ValueError(
                f"item {item.name!r} has no answer that the metric {item.metric!r} calls right: "
                f"{', '.join(item.answers)}."
            )
        seen.add(item.name)
    return listed


def with_boxes(items: Iterable[Item], per_task: int) -> list[Item]:
    """At most `per_task` items of each task, of those whose answer has boxes; task by task."""
    by_task: dict[str, list[Item]] = {}
    for item in items:
        if item.boxes and len(mine := by_task.setdefault(item.task, [])) < per_task:
            mine.append(item)
    return [item for mine in by_task.values() for item in mine]


def digest(items: Sequence[Item]) -> str:
    """A digest of texts, answers, regions and pixels. Other questions have another digest."""
    sha, pictures = hashlib.sha256(), set[str]()
    for item in items:
        asked = (*item.before, item.text) if item.before else item.text
        sha.update(repr((item.name, item.task, item.picture, asked, item.answers, item.boxes)).encode())
        if item.picture not in pictures:
            pictures.add(item.picture)
            if isinstance(item.image, Path):
                with item.image.open("rb") as file:
                    while part := file.read(1 << 20):  # a file may be larger than memory
                        sha.update(part)
            else:
                sha.update(item.image.tobytes())
    return sha.hexdigest()[:16]
