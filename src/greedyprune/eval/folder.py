"""A user's own questions: a folder with images and a `.jsonl` file, one question per line.

    {"image": "kitchen.jpg", "question": "What colour is the cup?", "answer": ["red", "dark red"],
     "task": "colour", "boxes": [[40, 60, 120, 150]]}

`image` is a path inside the folder; `answer` is a text or a list of texts that are all right. `task` ("questions" if
left out) groups lines in the results; `boxes` (left, top, right, bottom in pixels) say where the answer is to be seen;
`guesses` lists what could be guessed without looking.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from greedyprune.eval.items import Item
from greedyprune.ops.grid import Box

FIELDS = {"image", "question", "answer", "task", "boxes", "guesses"}


@dataclass(frozen=True)
class Folder:
    """The questions of a folder, in the order of its file; at most `questions` of every task."""

    path: Path
    questions: int | None = None

    def items(self) -> list[Item]:
        """Every line as an item."""
        files = sorted(self.path.glob("*.jsonl"))
        if len(files) != 1:
            found = ", ".join(file.name for file in files) or "none"
            raise ValueError(f"{self.path} needs exactly one .jsonl file with questions, and holds {found}.")
        items: list[Item] = []
        counts: dict[str, int] = {}
        for number, line in enumerate(files[0].read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            item = self._item(line, f"{files[0].name}:{number}")
            counts[item.task] = counts.get(item.task, 0) + 1
            if self.questions is None or counts[item.task] <= self.questions:
                items.append(item)
        return items

    def _item(self, line: str, name: str) -> Item:
        try:
            given: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is no JSON: {error}.") from error
        if not isinstance(given, dict) or not {"image", "question", "answer"} <= set(cast("dict[str, Any]", given)):
            raise ValueError(f'{name} needs "image", "question" and "answer": {line.strip()}')
        if unknown := set(given) - FIELDS:
            raise ValueError(f"{name} has the unknown field {min(unknown)!r}: known are {', '.join(sorted(FIELDS))}.")
        image = self.path / str(given["image"])
        if not image.is_file():
            raise ValueError(f"{name} names the image {given['image']!r}, which is not in {self.path}.")
        answer, boxes = given["answer"], given.get("boxes", [])
        answers = tuple(map(str, answer)) if isinstance(answer, list) else (str(answer),)
        return Item(
            name,
            str(given.get("task", "questions")),
            image,
            str(given["image"]),
            str(given["question"]),
            answers,
            tuple(_box(box, name) for box in boxes),
            tuple(map(str, given.get("guesses", ()))),
        )


def _box(box: Any, name: str) -> Box:
    if isinstance(box, list) and len(box) == 4 and all(isinstance(edge, (int, float)) for edge in box):
        left, top, right, bottom = map(float, box)
        if left < right and top < bottom:
            return left, top, right, bottom
    raise ValueError(f"{name} has the box {box!r}: write [left, top, right, bottom] in pixels.")
