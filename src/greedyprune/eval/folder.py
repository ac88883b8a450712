"""A user's own questions: a folder with images and a `.jsonl` file, one question per line.

    {"image": "kitchen.jpg", "question": "What colour is the cup?", "answer": ["red", "dark red"],
     "task": "colour", "boxes": [[40, 60, 120, 150]]}

`image` is a path inside the folder; `answer` is a text or a list of texts that are all right. `task` ("questions" if
left out) groups lines in the results; `boxes` (left, top, right, bottom in pixels) enclose what carries the answer;
`guesses` lists answers that are plausible without looking; `metric` names the rule of `scoring.METRICS` by which an
answer is scored, "exact" if left out.

A folder may come from others, so nothing outside it is read. Absolute paths, `..`, links that lead out of the folder,
and lines and texts that are too long are refused. The error names the file and the line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from greedyprune.eval.items import Item
from greedyprune.eval.scoring import check_metric
from greedyprune.ops.grid import Box

FIELDS = {"image", "question", "answer", "task", "boxes", "guesses", "metric"}
LONGEST_LINE = 1_000_000
"""Bytes of a line."""
LONGEST_QUESTION = 20_000
"""Characters: a prompt of these is a whole context of most models."""
LONGEST_TASK = 200
"""Characters: a task is a cell of a table."""


@dataclass(frozen=True)
class Folder:
    """The questions of a folder, in the order of its file; at most `questions` of every task."""

    path: Path
    questions: int | None = None

    def items(self) -> list[Item]:
        """Read every line as an item. Raises ValueError with the file and the line that cannot be asked."""
        files = sorted(self.path.glob("*.jsonl"))
        if len(files) != 1:
            found = ", ".join(file.name for file in files) or "none"
            raise ValueError(f"{self.path} needs exactly one .jsonl file with questions, and holds {found}.")
        inside(self.path, files[0].name, str(self.path))
        items: list[Item] = []
        counts: dict[str, int] = {}
        for number, line in enumerate(_lines(files[0]), start=1):
            name = f"{files[0].name}:{number}"
            item = self._item(_fields(line, name), name) if line.strip() else None
            if item is None:
                continue
            counts[item.task] = counts.get(item.task, 0) + 1
            if self.questions is None or counts[item.task] <= self.questions:
                items.append(item)
        return items

    def _item(self, given: dict[str, Any], name: str) -> Item:
        shown = given["image"]
        if not isinstance(shown, str) or not shown:
            raise ValueError(f'{name} has the "image" {short_form(shown)}: write a path inside the folder, as text.')
        image = inside(self.path, shown, name)
        task = text_of(given.get("task", "questions"), "task", name)
        if len(task) > LONGEST_TASK or not task.isprintable():
            raise ValueError(
                f'{name} has the "task" {short_form(task)}: write one line of at most {LONGEST_TASK} characters.'
            )
        answer = given["answer"]
        return Item(
            name,
            task,
            image,
            image.relative_to(self.path.resolve()).as_posix(),
            question_of(given["question"], name),
            texts_of(answer if isinstance(answer, list) else [answer], "answer", name),
            tuple(_box(box, name) for box in _list(given.get("boxes", []), "boxes", name)),
            texts_of(given.get("guesses", []), "guesses", name, empty=True),
            metric=_metric(given.get("metric", "exact"), name),
        )


def question_of(question: Any, name: str) -> str:
    """The text of a question. Raises ValueError if it is empty or too long."""
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f'{name} has the "question" {short_form(question)}: write it as a text that is not empty.')
    if len(question) > LONGEST_QUESTION:
        raise ValueError(
            f"{name} has a question of {len(question)} characters, and at most {LONGEST_QUESTION} are asked: "
            "shorten it."
        )
    return text_of(question, "question", name)


def _metric(given: Any, name: str) -> str:
    try:
        return check_metric(given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _lines(file: Path) -> Iterator[bytes]:
    """The lines of a file. A line is read up to `LONGEST_LINE` + 1 bytes."""
    with file.open("rb") as opened:
        while line := opened.readline(LONGEST_LINE + 1):
            yield line


def _fields(line: bytes, name: str) -> dict[str, Any]:
    """The fields of one line. Raises ValueError if one is missing or unknown."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"{name} has more than {LONGEST_LINE} bytes: write one question per line.")
    try:
        given: Any = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no UTF-8 text at byte {error.start + 1}: save the file as UTF-8.") from error
    except RecursionError as error:
        raise ValueError(f"{name} is no question: its JSON is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"{name} is no JSON: {error}.") from error
    if not isinstance(given, dict) or not {"image", "question", "answer"} <= set(cast("dict[str, Any]", given)):
        raise ValueError(f'{name} needs "image", "question" and "answer": {short_form(given)}')
    if unknown := set(cast("dict[str, Any]", given)) - FIELDS:
        raise ValueError(
            f"{name} has the unknown field {short_form(min(unknown))}: known are {', '.join(sorted(FIELDS))}."
        )
    return cast("dict[str, Any]", given)


def inside(folder: Path, given: str, name: str) -> Path:
    """The path of that file in the folder, links followed. Raises ValueError if it is not inside the folder."""
    path = Path(given)
    if path.anchor or ".." in path.parts or "\0" in given:
        raise ValueError(f'{name} names {short_form(given)}: write a path inside the folder, without "..".')
    root = folder.resolve()
    try:
        real = (root / path).resolve()
        if not real.is_relative_to(root):
            raise ValueError(
                f"{name} names {short_form(given)}, a link that leaves the folder: put the file itself there."
            )
        is_file = os.path.isfile(real)
        given.encode("utf-8")
    except (OSError, UnicodeEncodeError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{name} names {short_form(given)}, which is no name of a file: {reason}.") from error
    if not is_file:
        raise ValueError(f"{name} names the image {short_form(given)}, which is not in {folder}.")
    return real


def text_of(value: Any, field: str, name: str) -> str:
    """A text, or a number as text. Raises ValueError for anything else."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
    if not isinstance(value, str) and not number:
        raise ValueError(f'{name} has the "{field}" {short_form(value)}: write a text in quotes, or a number.')
    text = str(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f'{name} has half a character in its "{field}": write it in full.') from error
    return text


def texts_of(values: Any, field: str, name: str, empty: bool = False) -> tuple[str, ...]:
    found = tuple(text_of(value, field, name) for value in _list(values, field, name))
    if not found and not empty:
        raise ValueError(f'{name} has no "{field}": write one text or more.')
    return found


def _list(value: Any, field: str, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f'{name} has the "{field}" {short_form(value)}: write a list, or leave it out.')
    return cast("list[Any]", value)


def _box(box: Any, name: str) -> Box:
    numbers = isinstance(box, list) and all(type(edge) in (int, float) for edge in cast("list[Any]", box))
    if numbers and len(box) == 4 and all(abs(edge) <= 1e9 for edge in box):
        left, top, right, bottom = map(float, box)
        if left < right and top < bottom:
            return left, top, right, bottom
    raise ValueError(f"{name} has the box {short_form(box)}: write [left, top, right, bottom] in pixels.")


def short_form(value: Any) -> str:
    """A short form of a value, for errors."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested deeply, or a number of thousands of digits
        return f"(a {type(value).__name__})"
    return text if len(text) <= 120 else f"{text[:117]}..."
