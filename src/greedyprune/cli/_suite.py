"""What `greedyprune eval` evaluates: suites of questions, and models. All that it knows of the testbed is here."""

from __future__ import annotations

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
    from greedyprune.eval.scenes import Scenes

    return Scenes(questions, split, seed, native=native).items()


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
