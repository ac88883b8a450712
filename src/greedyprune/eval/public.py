"""Public question sets by their usual files: POPE, TextVQA, GQA, ChartQA and DocVQA. Nothing is downloaded.

    items = Public(Path("coco_pope_random.json"), Path("val2014")).items()

The form of the file tells the set. Each answer is scored as the set's own paper does (see `scoring`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from greedyprune.eval.folder import inside, question_of, short_form, text_of, texts_of
from greedyprune.eval.items import Item

FOLDERS = ("", "images", "train_images", "val2014", "png")
"""The folders inside the images' folder in which a picture is looked for."""
ENDINGS = (".jpg", ".png", ".jpeg")
"""The endings of pictures whose sets name them by an id."""


@dataclass(frozen=True)
class Form:
    """The form of one set: its fields, and what they become."""

    name: str
    image: str
    """The field with the picture's file, or with its id."""
    by_id: bool
    question: str
    answers: str
    metric: str

    @property
    def fields(self) -> set[str]:
        """The fields by which its rows are known."""
        return {self.image, self.question}


FORMS = (
    Form("POPE", "image", False, "text", "label", "yes_no"),
    Form("TextVQA", "image_id", True, "question", "answers", "vqa"),
    Form("GQA", "imageId", True, "question", "answer", "exact"),
    Form("ChartQA", "imgname", False, "query", "label", "relaxed"),
    Form("DocVQA", "image", False, "question", "answers", "anls"),
)


@dataclass(frozen=True)
class Public:
    """The questions of one file, in its order; at most `questions` of them."""

    file: Path
    images: Path | None = None
    """The folder with the pictures; None for the folder of the file."""
    questions: int | None = None

    def items(self) -> list[Item]:
        """Read the rows as items. Raises ValueError with the file and the row that cannot be asked."""
        root = self.images or self.file.parent
        found: list[Item] = []
        for name, row in _rows(self.file):
            if self.questions is not None and len(found) == self.questions:
                break
            form = _form_of(row, name)
            answers = row.get(form.answers)
            if answers is None:
                raise ValueError(
                    f"{name} has no {form.answers!r}: a test split of {form.name} keeps them, take another."
                )
            picture = _picture(root, row[form.image], form, name)
            found.append(
                Item(
                    name,
                    form.name,
                    picture,
                    picture.relative_to(root.resolve()).as_posix(),
                    question_of(row[form.question], name),
                    texts_of(answers if isinstance(answers, list) else [answers], form.answers, name),
                    metric=form.metric,
                )
            )
        return found


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file, each with its name: a list, a list under "data", rows by id, or a row on each line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is no UTF-8 text at byte {error.start + 1}: save the file as UTF-8.") from error
    given = _read(text, file)
    if isinstance(given, dict) and isinstance(given.get("data"), list):
        given = given["data"]
    rows: Any = enumerate(given, start=1) if isinstance(given, list) else given.items()
    for number, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{file.name}:{number} is no question: {short_form(row)}.")
        yield f"{file.name}:{number}", cast("dict[str, Any]", row)


def _read(text: str, file: Path) -> Any:
    """The JSON of a whole file, or of each of its lines."""
    try:
        found: Any = json.loads(text)
        if isinstance(found, dict) and any(form.fields <= set(found) for form in FORMS):
            return [found]  # a file of one line
        if isinstance(found, (list, dict)):
            return cast("Any", found)
        raise ValueError(f"{file.name} holds {short_form(found)}: a set of questions is a list or an object.")
    except json.JSONDecodeError as whole:
        if whole.msg != "Extra data":
            raise ValueError(f"{file.name} is no JSON: {whole.msg} at line {whole.lineno}.") from whole
    rows: list[Any] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"{file.name}:{number} is no JSON: {error.msg}.") from error
    return rows


def _form_of(row: Mapping[str, Any], name: str) -> Form:
    """The form of a row. Raises ValueError if it is that of no known set."""
    for form in FORMS:
        if form.fields <= set(row):
            return form
    known = "; ".join(f"{form.name}: {form.image}, {form.question}, {form.answers}" for form in FORMS)
    raise ValueError(f"{name} has the fields {short_form(sorted(row))}, which are those of no known set ({known}).")


def _picture(root: Path, given: Any, form: Form, name: str) -> Path:
    """The file of a picture. Raises ValueError if it is in none of the usual places."""
    plain = text_of(given, form.image, name)
    if Path(plain).anchor or ".." in Path(plain).parts or "\0" in plain:
        return inside(root, plain, name)  # which refuses it
    names = [plain + ending for ending in ENDINGS] if form.by_id else [plain, Path(plain).name]
    tries = [f"{folder}/{each}" if folder else each for folder in FOLDERS for each in dict.fromkeys(names)]
    return inside(root, next((each for each in tries if (root / each).is_file()), tries[0]), name)
