"""`greedyprune eval`: accuracy of methods at budgets, dense and controls beside them, as rows with intervals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli._errors import misuse
from greedyprune.cli._options import Device, Dtype, Longest
from greedyprune.cli._outputs import check_folder, check_paths

if TYPE_CHECKING:
    from collections.abc import Callable

    from greedyprune.budget import Budget
    from greedyprune.method import Method
    from greedyprune.stages import Stage

EXAMPLES = """Examples:

  greedyprune eval --questions 200 --out results.csv --report report.html

  greedyprune eval --model llava --methods greedyprune,random,oracle --keep 1/9 --split dev

  greedyprune eval --data my-questions --model ./llava --keep 25%,64 --run my-run

  greedyprune eval --methods '[{"type": "greedyprune", "tau": 0.9}, "saliency"]' --at input,layer:2"""

ALL = "all"
QUICK = {"questions": 20, "keep": "1/4,1/9", "seeds": "0"}

Suite = Annotated[str, typer.Option("--suite", metavar="testbed|digits", help="Questions that ship with the library.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Your own: a folder with images and a .jsonl file of questions."),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME|DIR|ID", help="llava, qwen, a folder or an id; may be given several times."),
]
Questions = Annotated[int, typer.Option("--questions", min=1, help="How many of each task.")]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        metavar="NAMES|JSON",
        help="Comma-separated, or [bold]all[/bold]; also [bold]oracle[/bold] and [bold]downscale[/bold]; a JSON list "
        "sets options.",
        show_default="one of each kind, and controls",
    ),
]
Keep = Annotated[str, typer.Option("--keep", metavar="1/9,25%,64", help="Budgets: shares or numbers of visual tokens.")]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="input,layer:2", help="Where to cut.", show_default="each method's own place"),
]
Seeds = Annotated[str, typer.Option("--seeds", metavar="0,1,2", help="Seeds of methods that draw lots.")]
Split = Annotated[str, typer.Option("--split", metavar="dev|test", help="Choose on dev, publish test.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Draws the questions.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="CSV", help="Write the rows to this file.")]
Run = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="Keep answers here; a run that stopped goes on.")
]
Report = Annotated[Path | None, typer.Option("--report", metavar="HTML", help="Write pictures and tables, one file.")]
Auc = Annotated[
    Path | None,
    typer.Option("--auc", metavar="CSV", help="Write how early each method takes the tokens that carry the answer."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Few questions and budgets: two minutes on two cores.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes.", show_default="a core each for bundled models on a CPU, else 1"),
]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Questions answered together.")]
Json = Annotated[bool, typer.Option("--json", help="Print the rows as one JSON document instead.")]


@dataclass(frozen=True)
class Plan:
    """What the command line asks for, checked."""

    models: list[str]
    methods: list[Method | str] | None
    """None: what is usual, or every one, of those that the model can do."""
    budgets: dict[str, Budget]
    stages: list[Stage | None]
    seeds: list[int]
    suite: str
    data: Path | None
    questions: int
    split: str
    seed: int
    workers: int | None
    batch: int
    longest: int
    device: str
    dtype: str | None
    every: bool = False
    """Of all registered methods, where none is named."""


def evaluate(
    suite: Suite = "testbed",
    data: Data = None,
    model: Models = None,
    questions: Questions = 200,
    methods: Methods = None,
    keep: Keep = "1/2,1/4,1/9,1/18",
    at: At = None,
    seeds: Seeds = "0,1,2",
    split: Split = "test",
    seed: Seed = 0,
    out: Out = None,
    run: Run = None,
    report: Report = None,
    auc: Auc = None,
    quick: Quick = False,
    workers: Workers = None,
    batch: BatchSize = 32,
    max_new_tokens: Longest = 8,
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Answer questions with every method at every budget, and count: intervals, floors, controls, region recall."""
    if quick:
        questions, keep, seeds = int(QUICK["questions"]), str(QUICK["keep"]), str(QUICK["seeds"])
    from greedyprune.cli._evaluate import everything
    from greedyprune.cli._suite import MODELS

    plan = Plan(
        models=model or list(MODELS),
        methods=None if methods in (None, ALL) else _methods(methods),
        every=methods == ALL,
        budgets=dict(_each("--keep", keep, _budget)),
        stages=[None] if at is None else [stage for _, stage in _each("--at", at, _stage)],
        seeds=[number for _, number in _each("--seeds", seeds, int)],
        suite="data" if data else suite,
        data=data,
        questions=questions,
        split=split,
        seed=seed,
        workers=workers,
        batch=batch,
        longest=max_new_tokens,
        device=device,
        dtype=dtype,
    )
    check_paths({"--out": out, "--report": report, "--auc": auc})
    check_folder("--run", run)
    everything(plan, out, run, report, auc, as_json)


def _each(option: str, text: str, read: Callable[[str], Any]) -> list[tuple[str, Any]]:
    """The words of a comma-separated option, each with what it means."""
    found: dict[str, Any] = {}
    for word in text.split(","):
        try:
            found[word.strip()] = read(word.strip())
        except ValueError as error:
            reason = error if str(error).startswith(repr(word.strip())) else f"{word.strip()!r} is no number."
            raise misuse(f"{option} {reason}") from error
    return list(found.items())


def _budget(word: str) -> Budget:
    from greedyprune.budget import Ratio, Total, parse_budget

    above, slash, below = word.partition("/")
    if slash and above.isdecimal() and below.isdecimal() and 0 < int(above) <= int(below):
        return Ratio(int(above) / int(below))
    if slash:
        raise ValueError(f"{word!r} is no budget: write 1/9 for a ninth of the visual tokens.")
    budget = parse_budget(word)
    if isinstance(budget, Total):
        raise ValueError(f"{word!r} is no budget of an image, which is what eval counts: write 64 or 25%.")
    return budget


def _stage(word: str) -> Stage:
    from greedyprune.stages import parse_stage

    return parse_stage(word)


def _methods(text: str) -> list[Method | str]:
    """Methods as the command line names them: names between commas, or JSON."""
    from greedyprune.cli.run import method_of
    from greedyprune.eval.configs import DOWNSCALE, ORACLE

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
