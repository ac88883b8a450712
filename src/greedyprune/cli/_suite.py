"""Questions and models for `greedyprune eval`: suites that ship with the library, and loaders."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from greedyprune import testbed
from greedyprune.cli._errors import Failure
from greedyprune.cli._load import load, quieten

if TYPE_CHECKING:
    from greedyprune.cli._plan import Questions
    from greedyprune.eval.items import Item
    from greedyprune.eval.loop import Load


def loader(name: str, device: str, dtype: str | None) -> Load:
    """A function without arguments that gives a model and its processor; another process can use it, too."""
    if name in testbed.MODELS:
        return partial(_bundled, name, device, dtype or "float32")
    return partial(_other, name, device, dtype)


def shipped(questions: Questions, native: bool, name: str) -> list[Item]:
    """The questions of a suite that ships with the library, those that this model learnt to answer.

    `native`: the model takes images of any size. Raises Failure if it learnt no task.
    """
    if questions.suite == "digits":
        return _digits(questions)
    from greedyprune.eval.scenes import Scenes

    try:
        tasks = testbed.learnt(name)
    except ValueError as error:
        raise Failure(str(error)) from error
    return Scenes(questions.each, questions.split, questions.seed, tasks, native).items()


def _digits(questions: Questions) -> list[Item]:
    """Real handwriting that no bundled model was trained on."""
    from greedyprune.eval.digits import Digits
    from greedyprune.testbed.assets import handwriting

    which = [int(number) for number in handwriting(questions.split)][: questions.each]
    return Digits(which, seed=questions.seed).items()


def _bundled(name: str, device: str, dtype: str) -> tuple[Any, Any]:
    quieten()
    return testbed.load(name, device, dtype)


def _other(name: str, device: str, dtype: str | None) -> tuple[Any, Any]:
    loaded = load(name, device, dtype)
    return loaded.model, loaded.processor
