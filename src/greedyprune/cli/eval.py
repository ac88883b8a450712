"""`greedyprune eval`: accuracy of methods at budgets, of the dense model and of controls, as rows with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from greedyprune.cli import _evaluate, _plan
from greedyprune.cli import _own_questions as own
from greedyprune.cli._options import (
    BUDGETS,
    STAGES,
    BatchSize,
    Data,
    Device,
    Dtype,
    Json,
    Models,
    PresetFile,
    Questions,
    Seed,
    Split,
    preset_of,
    unless_given,
)
from greedyprune.cli._outputs import check_folder, check_paths
from greedyprune.testbed import MODELS

EXAMPLES = """Examples:

  greedyprune eval --questions 200 --out results.csv --report report.html

  greedyprune eval --model llava --methods greedyprune,random,oracle --keep 1/9 --split dev

  greedyprune eval --data my-questions --model ./llava --keep 25%,64 --run my-run --metric contains

  greedyprune eval --data coco_pope_random.json --images val2014 --model ./llava --suffix "Answer yes or no."

  greedyprune eval --methods '[{"type": "greedyprune", "tau": 0.9}, "saliency"]' --at input,layer:2

  greedyprune eval --suite robustness --keep 1/9 --at layer:2 --out robustness.csv"""

QUICK = 10, "1/4,1/9", "0"
"""The values that --quick sets if the user does not: --questions, --keep and --seeds."""

Suite = Annotated[
    str,
    typer.Option(
        "--suite",
        metavar="testbed|digits|robustness",
        help="Questions that ship with the library; [bold]robustness[/bold] perturbs what methods see.",
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        metavar="NAMES|JSON|@FILE",
        help="Comma-separated, or [bold]all[/bold]; also [bold]oracle[/bold] and [bold]downscale[/bold]; a JSON list "
        "sets options, and [bold]@FILE[/bold] holds one.",
        show_default="one of each kind, and controls",
    ),
]
Keep = Annotated[
    str | None,
    typer.Option("--keep", metavar="BUDGET,...", help=f"Between commas, {BUDGETS}.", show_default=_plan.KEEPS),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="STAGE,...",
        help=f"Where to cut: between commas, {STAGES}.",
        show_default="each method's own place",
    ),
]
Seeds = Annotated[str, typer.Option("--seeds", metavar="0,1,2", help="Seeds of random methods.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="CSV", help="Write the rows to this file.")]
Run = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="Keep answers here; a run that stopped continues.")
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="HTML", help="Write pictures and tables, one file; minutes more.")
]
Auc = Annotated[
    Path | None,
    typer.Option("--auc", metavar="CSV", help="Write how early each method takes the tokens that carry the answer."),
]
Answers = Annotated[Path | None, typer.Option("--answers", metavar="JSONL", help="Write every answer to this file.")]
Longest = Annotated[
    int,
    typer.Option("--max-new-tokens", min=1, help="Longest answer.", show_default=f"8, of --data {own.LONGEST}"),
]
Quick = Annotated[bool, typer.Option("--quick", help="Few questions and budgets: two minutes on two cores.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes.", show_default="a core each for bundled models on a CPU, else 1"),
]


def evaluate(
    ctx: typer.Context,
    suite: Suite = "testbed",
    data: Data = None,
    model: Models = None,
    questions: Questions = 200,
    methods: Methods = None,
    keep: Keep = None,
    at: At = None,
    preset: PresetFile = None,
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
    images: own.Images = None,
    template: own.Template = None,
    suffix: own.Suffix = None,
    metric: own.Metric = None,
    answers: Answers = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy: every method at every budget, with intervals, floors, controls and region recall."""
    base = preset_of(preset)
    how = own.asking(images, template, suffix, metric)
    if data is not None:
        max_new_tokens = unless_given(ctx, "max_new_tokens", max_new_tokens, own.LONGEST)
    if quick:
        few, budgets, draws = QUICK
        budgets = keep if base is not None else budgets
        questions = unless_given(ctx, "questions", questions, few)
        keep, seeds = unless_given(ctx, "keep", keep, budgets), unless_given(ctx, "seeds", seeds, draws)
    plan = _plan.Plan(
        models=model or ([base.model] if base is not None and base.model else list(MODELS)),
        questions=_plan.questions(suite, data, questions, split, seed, (*_plan.SUITES, _plan.ROBUSTNESS), how),
        compared=_plan.compared(methods, keep, at, seeds, suite == _plan.ROBUSTNESS, base),
        running=_plan.Running(device, dtype, workers, batch, max_new_tokens),
        files=_plan.files(out, run, report, auc, suite, answers),
        as_json=as_json,
    )
    check_paths({"--out": out, "--report": report, "--auc": auc, "--answers": answers})
    check_folder("--run", run)
    _evaluate.evaluate_models(plan)
