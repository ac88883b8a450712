"""`Plan`: what `greedyprune eval` is asked for, checked. `Evaluated`: what came out for one model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greedyprune.cli._errors import misuse
from greedyprune.cli._options import method_of, text_in
from greedyprune.cli._own_questions import Asking
from greedyprune.stages import parse_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from greedyprune.budget import Budget, Budgets, LayerAverage
    from greedyprune.eval import Answers, Engine
    from greedyprune.method import Method
    from greedyprune.preset import Preset
    from greedyprune.stages import Stage

ALL = "all"
SUITES = ("testbed", "digits")
ROBUSTNESS = "robustness"
"""The suite of `greedyprune eval` that perturbs what methods see, on the testbed's questions or the user's own."""
OWN = "data"
"""The suite of a user's own folder."""
SPLITS = ("dev", "test")
KEEPS = "1/2,1/4,1/9,1/18"
"""The budgets that are compared if neither the user nor a preset names any."""


@dataclass(frozen=True)
class Questions:
    """The questions that are asked."""

    suite: str
    """One of `SUITES`, `ROBUSTNESS`, or `OWN`."""
    folder: Path | None
    """The user's own folder, None for a suite that ships with the library."""
    each: int
    """The largest number of questions of one task."""
    split: str
    seed: int
    asking: Asking = Asking()
    """How the user's own questions are asked and scored."""


@dataclass(frozen=True)
class Compared:
    """The configurations that are compared, besides the dense model."""

    methods: list[Method | str] | None
    """None: the usual methods that the model can do, or every one if `every` is set."""
    every: bool
    budgets: dict[str, Budget | LayerAverage]
    """By the text that the results show."""
    stages: list[Stage | None]
    seeds: list[int]
    perturbed: bool
    """True also runs every method on perturbed cues."""


@dataclass(frozen=True)
class Running:
    """The loading and running of models."""

    device: str
    dtype: str | None
    workers: int | None
    """None: a process per core for the bundled models on a CPU, else one."""
    batch: int
    max_new_tokens: int


@dataclass(frozen=True)
class Files:
    """The files and folders of results; None writes nothing."""

    rows: Path | None
    run: Path | None
    """A folder, in which every model has a folder of its own."""
    report: Path | None
    auc: Path | None
    answers: Path | None = None
    """A line of JSON for every answer."""


@dataclass(frozen=True)
class Plan:
    """A whole `greedyprune eval`, read from the options and checked."""

    models: list[str]
    questions: Questions
    compared: Compared
    running: Running
    files: Files
    as_json: bool


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One model's results."""

    name: str
    engine: Engine
    answers: Answers
    rows: list[dict[str, Any]]
    auc: list[dict[str, Any]]
    """AUC rows per method, stage and task; empty without --auc and --report."""
    seconds: float
    """Wall time of the answers."""

    @property
    def speed(self) -> float:
        """Answers per second, of those given in this run; 0 if the run folder held all of them."""
        return self.answers.given / self.seconds


# How options are read -------------------------------------------------------------------------------------------------


def questions(
    suite: str,
    data: Path | None,
    each: int,
    split: str,
    seed: int,
    suites: tuple[str, ...] = SUITES,
    how: Asking | None = None,
) -> Questions:
    """The questions that --suite, --data, --questions, --split and --seed ask for. `suites`: those of the command."""
    how = how or Asking()
    if data is None and how != Asking():
        raise misuse("--images, --template, --suffix and --metric are about your own questions: name them by --data.")
    if suite not in suites and (data is None or suite == ROBUSTNESS):
        raise misuse(f"--suite {suite!r} is unknown: choose one of {', '.join(suites)}.")
    if split not in SPLITS:
        raise misuse(f"--split {split!r} is unknown: choose one of {', '.join(SPLITS)}.")
    return Questions(suite if data is None or suite == ROBUSTNESS else OWN, data, each, split, seed, how)


def compared(
    methods: str | None,
    keep: str | None,
    at: str | None,
    seeds: str,
    perturbed: bool = False,
    preset: Preset | None = None,
) -> Compared:
    """The configurations that --methods, --keep, --at and --seeds ask for, `perturbed` too if the suite says so.

    The preset gives what is None; but methods that are written bring their own place.
    """
    named: list[Method | str] | None = None if methods in (None, ALL) else _methods(methods)
    stages: list[Stage | None] = [None]
    budgets = budgets_of("--keep", KEEPS if keep is None else keep)
    if at is not None:
        stages = [stage for _, stage in _words("--at", _STAGES.split(at), parse_stage)]
    if preset is not None:
        if preset.policy.positions != "original":
            raise misuse("--preset: its positions are compact, and an evaluation asks with the original ones.")
        if preset.policy.restore != "none":
            raise misuse("--preset: it restores attention, and an evaluation asks without that.")
        if keep is None:
            budgets = dict(_words("--preset", [str(preset.policy.keep)], lambda _: _single(preset.policy.keep)))
        if methods is None:
            named = [preset.policy.method]
            stages = stages if at is not None else [preset.policy.at]
    return Compared(
        methods=named if named is None or not perturbed else _with_controls(named),
        every=methods == ALL,
        budgets=budgets,
        stages=stages,
        seeds=[number for _, number in _words("--seeds", seeds.split(","), int)],
        perturbed=perturbed,
    )


def files(
    rows: Path | None, run: Path | None, report: Path | None, auc: Path | None, suite: str, answers: Path | None = None
) -> Files:
    """The files that --out, --run, --report, --auc and --answers ask for."""
    for option, path in (("--report", report), ("--auc", auc)):
        if suite == ROBUSTNESS and path is not None:
            raise misuse(f"{option} shows nothing of perturbed cues: leave it out, or choose another --suite.")
    return Files(rows, run, report, auc, answers)


def _with_controls(named: list[Method | str]) -> list[Method | str]:
    """These methods, and those that always stand beside perturbed ones, unless they are there."""
    from greedyprune.eval.configs import BESIDE
    from greedyprune.naming import method_class

    there = {type(each) for each in named}
    return named + [name for name in BESIDE if method_class(name) not in there]


_STAGES = re.compile(r",(?!\s*[\d.]+\s*(?:,|$))")
"""The commas between stages. One in front of a bare number is inside a stage: layers:2,4."""


def _words(option: str, words: Iterable[str], read: Callable[[str], Any]) -> list[tuple[str, Any]]:
    """The words of an option, each with its value; `read` turns one word into a value."""
    found: dict[str, Any] = {}
    for word in words:
        try:
            found[word.strip()] = read(word.strip())
        except TypeError as error:
            raise misuse(f"{option} {error}") from error
        except ValueError as error:
            reason = error if str(error).startswith(repr(word.strip())) else f"{word.strip()!r} is no number."
            raise misuse(f"{option} {reason}") from error
    return list(found.items())


def budgets_of(option: str, text: str) -> dict[str, Budget | LayerAverage]:
    """The budgets between the commas of an option, by their texts."""
    return dict(_words(option, text.split(","), budget_of))


def budget_of(word: str) -> Budget | LayerAverage:
    """A budget of one question: `1/9`, `25%`, `64` or `64 per layer`. Raises ValueError for anything else.

    A question has one picture, so `total:64` and `64/frame` are 64 tokens of it.
    """
    from greedyprune.budget import parse_budgets

    return _single(parse_budgets(word))


def _single(budget: Budgets) -> Budget | LayerAverage:
    """The budget of one question, whose picture is all that a prompt holds."""
    from greedyprune.budget import PerFrame, PerLayer, Total

    if isinstance(budget, (PerLayer, tuple)):
        word = str(budget)
        raise ValueError(f"{word!r} is no single budget, which is what eval compares: write 64 and --at layers:2,4.")
    return budget.tokens if isinstance(budget, (PerFrame, Total)) else budget


def _methods(text: str) -> list[Method | str]:
    """Methods as the command line names them: names between commas, JSON, or a file of either (`@rules.json`)."""
    from greedyprune.eval.configs import DOWNSCALE, ORACLE

    if text.startswith("@"):
        text = text_in("--methods", Path(text[1:]))
    words: list[Any] = text.split(",")
    if text.strip()[:1] in ("[", "{"):
        try:
            given: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise misuse(f"--methods is no JSON: {error.msg} at character {error.pos + 1}.") from error
        words = given if isinstance(given, list) else [given]
    found: list[Method | str] = []
    for word in words:
        name = word.strip() if isinstance(word, str) else json.dumps(word)
        found.append(name if name in (DOWNSCALE, ORACLE) else method_of(name, "--methods"))
    return found
