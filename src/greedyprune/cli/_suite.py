"""What `greedyprune eval` evaluates: suites of questions, and models. All that it knows of the testbed is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greedyprune import testbed
from greedyprune.cli._errors import Failure, misuse

if TYPE_CHECKING:
    from greedyprune.eval.items import Item
    from greedyprune.eval.loop import Load

MODELS = testbed.MODELS
SUITES = ("testbed", "digits")
SPLITS = ("dev", "test")


def loader(name: str, device: str, dtype: str | None) -> Load:
    """How to get a model and its processor, as a value that another process can use."""
    if name in MODELS:
        return partial(_bundled, name, device, dtype or "float32")
    return partial(_other, name, device, dtype)


def own(data: Path, questions: int) -> list[Item]:
    """The questions of a user's own folder, at most so many of each task."""
    from greedyprune.eval.folder import Folder
    from greedyprune.eval.items import checked

    if not data.is_dir():
        raise Failure(f"--data {str(data)!r} is no folder: give one with images and a .jsonl file.")
    try:
        return checked(Folder(data, questions).items())
    except (OSError, ValueError) as error:
        raise Failure(f"--data: {error}") from error


def items(suite: str, questions: int, split: str, seed: int, native: bool) -> list[Item]:
    """The questions that are asked, at most so many of each task; `native`: of a model that sees images of any size."""
    if suite not in SUITES:
        raise misuse(f"--suite {suite!r} is unknown: choose one of {', '.join(SUITES)}.")
    if split not in SPLITS:
        raise misuse(f"--split {split!r} is unknown: choose one of {', '.join(SPLITS)}.")
    if suite == "digits":
        return _digits(questions, split, seed)
    return Scenes(questions, split, seed, native=native).items()


@dataclass(frozen=True)
class Scenes:
    """The scenes of the testbed: the same questions for the same split and seed."""

    questions: int
    """Of each task."""
    split: str = "test"
    seed: int = 0
    tasks: Sequence[str] = ()
    """All, if empty."""
    native: bool = False
    """Of several sizes, not only of the one that every model sees as it is."""

    def items(self) -> list[Item]:
        """One item per question."""
        from greedyprune.eval.items import Item

        tasks = tuple(self.tasks) or testbed.TASKS
        sizes = testbed.SIZES if self.native else testbed.SIZES[:1]
        found = testbed.sample(self.questions * len(tasks), self.split, self.seed, tasks, sizes)
        pictures = {id(image): number for number, (image, _) in enumerate(found)}
        return [
            Item(
                f"{self.split}-{self.seed}-{number} ({question.task})",
                question.task,
                image,
                f"{self.split}-{self.seed}-{pictures[id(image)]}",
                question.text,
                (question.answer,),
                tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in question.boxes),
                question.guesses,
            )
            for number, (image, question) in enumerate(found)
        ]


def _digits(questions: int, split: str, seed: int) -> list[Item]:
    """Real handwriting that no bundled model was trained on."""
    from greedyprune.eval.digits import Digits
    from greedyprune.testbed.assets import handwriting

    return Digits([int(number) for number in handwriting(split)][:questions], seed=seed).items()


def _bundled(name: str, device: str, dtype: str) -> tuple[Any, Any]:
    from greedyprune.cli._load import quieten

    quieten()
    return testbed.load(name, device, dtype)


def _other(name: str, device: str, dtype: str | None) -> tuple[Any, Any]:
    from greedyprune.cli._load import load

    loaded = load(name, device, dtype)
    return loaded.model, loaded.processor
