"""`greedyprune bench quantile`: what a threshold read off a sample of tokens changes in accuracy, answer by answer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli import _models, _plan, _suite
from greedyprune.cli._bench_options import Save
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._options import BatchSize, Json, Models, Questions, Seed, Split
from greedyprune.cli._show import console, print_json, progress, table
from greedyprune.testbed import MODELS

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = """Example: greedyprune bench quantile --questions 200 --save results/performance/quantile.csv"""

ALL = 1_000_000
"""More rows than any image has: every pair counts."""

Rows = Annotated[
    list[int] | None,
    typer.Option("--rows", min=2, help="Tokens whose pairs it is read off; may be given again.", show_default="48, 96"),
]
Keep = Annotated[str, typer.Option("--keep", metavar="BUDGET,...", help="Budgets between commas: 1/4,1/9.")]


def quantile(
    model: Models = None,
    questions: Questions = 200,
    keep: Keep = "1/4,1/9",
    rows: Rows = None,
    split: Split = "dev",
    seed: Seed = 0,
    batch: BatchSize = 32,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Compare GreedyPrune's accuracy if its threshold is read off some of the tokens with that of all pairs.

    The same questions, paired. It is accuracy, not time: a busy machine changes no number.
    """
    asked = _plan.questions("testbed", None, questions, split, seed)
    budgets = _plan.compared("greedyprune", keep, None, "0").budgets
    check(save)
    found: list[dict[str, Any]] = []
    for name in model or list(MODELS):
        with progress(name) as say:
            found += _of(name, asked, budgets, rows or [48, 96], batch, say)
    with saved(save, found):
        if as_json:
            print_json(found)
        else:
            _show(found)


def _of(
    name: str,
    asked: _plan.Questions,
    budgets: dict[str, Any],
    sizes: list[int],
    batch: int,
    say: Callable[..., None],
) -> list[dict[str, Any]]:
    """The rows of one model."""
    from greedyprune.eval import Job, configurations, evaluate
    from greedyprune.eval.paired import paired
    from greedyprune.methods.greedyprune import GreedyPrune
    from greedyprune.ops.threshold import Quantile

    engine = _models.engine(name, _plan.Running("cpu", None, 1, batch, 8))
    native = not engine.parts.family.takes_one_size(engine.parts.config)
    items = _suite.shipped(asked, native, name)
    methods = [GreedyPrune(tau=Quantile(0.8, rows=count)) for count in (ALL, *sizes)]
    configs = configurations(methods, budgets)
    total = len(items) * len(configs)
    with tempfile.TemporaryDirectory() as passing:
        answers = evaluate(
            engine, Job(items, configs, batch), Path(passing), lambda done, _: say(f"{name}: {done} of {total} answers")
        )
    made: list[dict[str, Any]] = []
    for budget in budgets:
        exact, *sampled = [config for config in configs if config.budget == budget]
        for count, config in zip(sizes, sampled, strict=True):
            tokens = answers.columns[config.key]["tokens"]
            about = {"model": name, "split": asked.split, "question_seed": asked.seed, "budget": budget}
            row = {"tokens_low": int(tokens.min()), "tokens_high": int(tokens.max()), "rows": count}
            made.append({**about, **row, **paired(answers, exact, config).to_dict()})
    return made


def _show(found: list[dict[str, Any]]) -> None:
    shown = table("model", "kept", "rows", "all pairs", "off rows", "difference, 95 % interval", "changed")
    for row in found:
        shown.add_row(
            *(row["model"], row["budget"], f"{row['rows']} of {row['tokens_high']}"),
            *(f"{100 * row['first']:.1f} %", f"{100 * row['second']:.1f} %"),
            f"{100 * row['difference']:+.2f} ({100 * row['low']:+.2f} to {100 * row['high']:+.2f}) points",
            f"{row['changed']} of {row['questions']}",
        )
    console().print(shown)
