"""Questions of the user's own: where they are, how they are asked, and how answers are scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greedyprune.cli._errors import Failure, misuse

if TYPE_CHECKING:
    from greedyprune.eval.items import Item

LONGEST = 32
"""Tokens of an answer to a question of the user's own: a sentence, as chat models like to say."""
METRICS = "exact, contains, yes_no, number, relaxed (5 %), anls or vqa"

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="DIR|JSON",
        help="A folder with images and a .jsonl file of questions, or a file of POPE, TextVQA, GQA, ChartQA or DocVQA.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option("--images", metavar="DIR", help="The pictures of --data FILE.", show_default="the file's folder"),
]
Template = Annotated[
    str | None,
    typer.Option("--template", metavar="TEXT", help="What is asked; {question} stands for the question."),
]
Suffix = Annotated[
    str | None, typer.Option("--suffix", metavar="TEXT", help="What is asked behind the question, on a new line.")
]
Metric = Annotated[
    str | None, typer.Option("--metric", help=f"How answers are scored: {METRICS}.", show_default="the data's own")
]
Longest = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")]


@dataclass(frozen=True)
class Asking:
    """How questions of the user's own are asked and scored."""

    images: Path | None = None
    template: str = "{question}"
    metric: str | None = None


def asking(images: Path | None, template: str | None, suffix: str | None, metric: str | None) -> Asking:
    """What --images, --template, --suffix and --metric say. Raises Failure if they do not fit each other."""
    from greedyprune.eval.items import QUESTION
    from greedyprune.eval.scoring import check_metric

    if template is not None and suffix is not None:
        raise misuse("--template and --suffix exclude each other: write the suffix into the template.")
    if template is not None and QUESTION not in template:
        raise misuse(f"--template {template!r} has no {QUESTION}: write where the question stands.")
    if suffix is not None:
        template = f"{QUESTION}\n{suffix}"
    try:
        return Asking(images, template or QUESTION, None if metric is None else check_metric(metric))
    except ValueError as error:
        raise misuse(f"--metric: {error}") from error


def items(data: Path, each: int | None, how: Asking) -> list[Item]:
    """The questions in a folder or a file, at most `each` of a task, or all. Raises Failure if one cannot be asked."""
    from greedyprune.eval.folder import Folder
    from greedyprune.eval.items import asked, checked
    from greedyprune.eval.public import Public

    if not data.exists():
        raise Failure(f"--data {str(data)!r} is not there: give a folder with images and a .jsonl file, or a file.")
    if data.is_dir() and how.images is not None:
        raise misuse("--images is for --data FILE: the pictures of a folder lie in it.")
    source = Folder(data, each) if data.is_dir() else Public(data, how.images, each)
    try:
        return checked(asked(source.items(), how.template, how.metric))
    except (OSError, ValueError) as error:
        raise Failure(f"--data: {error}") from error
