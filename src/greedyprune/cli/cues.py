"""`greedyprune cues`: how well each saliency finds the tokens that carry the answer, by decoder layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.bench import rows as results
from greedyprune.cli import _models, _own_questions, _plan, _suite
from greedyprune.cli._errors import Failure
from greedyprune.cli._options import (
    BatchSize,
    Data,
    Device,
    Dtype,
    Json,
    Models,
    Questions,
    Seed,
    Split,
    Suite,
    unless_given,
)
from greedyprune.cli._outputs import check_path, written
from greedyprune.cli._show import console, print_json, progress, table
from greedyprune.testbed import MODELS

if TYPE_CHECKING:
    from greedyprune.eval import Item

EXAMPLES = """Examples:

  greedyprune cues --split dev --out cues.csv

  greedyprune cues --model llava --quick

  greedyprune cues --data my-questions --model ./llava --out cues.csv"""

QUICK = 10
"""The value of --questions that --quick sets if the user does not."""
SPARE = 3
"""Questions are drawn in so many times the number that is measured, since some, such as those answered "no", have no
boxes."""
DESCRIBED = 20
"""The most questions of a task whose states --states describes."""
WIDEST = 9
"""Layers that the screen shows; the file has all of them."""

Out = Annotated[Path | None, typer.Option("--out", metavar="CSV", help="Write the rows to this file.")]
States = Annotated[
    Path | None,
    typer.Option("--states", metavar="CSV", help="Write how the states look at every layer: lengths, cosines, sinks."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Few questions: half a minute.")]


@dataclass(frozen=True)
class Measured:
    """One model's rows."""

    name: str
    rows: list[dict[str, Any]]
    states: list[dict[str, Any]]
    """Rows of --states; empty without it."""


def cues(
    ctx: typer.Context,
    suite: Suite = "testbed",
    data: Data = None,
    model: Models = None,
    questions: Questions = 100,
    split: Split = "test",
    seed: Seed = 0,
    out: Out = None,
    states: States = None,
    quick: Quick = False,
    batch: BatchSize = 8,
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Measure cues: how well cosines, attention and norms find the answer's visual tokens, layer by layer.

    Nothing is pruned and nothing is answered: the model reads each prompt once, with eager attention. Questions need
    boxes that say where the answer is.
    """
    each = unless_given(ctx, "questions", questions, QUICK) if quick else questions
    asked = _plan.questions(suite, data, each, split, seed)
    running = _plan.Running(device, dtype, 1, batch, 1)
    check_path("--out", out)
    check_path("--states", states)
    own = None if data is None else _own_questions.items(data, None, _own_questions.Asking())
    found: list[Measured] = []
    unwritten: list[Failure | None] = []

    def take(one: Measured) -> None:
        found.append(one)
        rows = [row for each in found for row in each.rows]
        described = [row for each in found for row in each.states]
        unwritten[:] = [
            written("--out", out, lambda path: results.write(path, rows)),
            written("--states", states, lambda path: results.write(path, described)),
        ]
        if not as_json:
            _print(one)

    failed = _models.each(
        model or list(MODELS), lambda name: _measure(name, asked, running, own, states is not None), take
    )
    if not found and len(failed) == 1:
        raise next(iter(failed.values()))
    if as_json:
        print_json([row for one in found for row in one.rows])
    _models.raise_problems([one.name for one in found], failed, [problem for problem in unwritten if problem])


def _measure(
    name: str, asked: _plan.Questions, running: _plan.Running, own: list[Item] | None, describe: bool
) -> Measured:
    """The rows of one model, of its states too if asked. Raises Failure if it cannot be loaded or measured."""
    import torch

    from greedyprune.eval.cues import cue_rows
    from greedyprune.eval.engine import ItemError
    from greedyprune.eval.items import with_boxes
    from greedyprune.eval.states import state_rows

    engine = _models.engine(name, running)
    native = not engine.parts.family.takes_one_size(engine.parts.config)
    items = own or _suite.shipped(replace(asked, each=SPARE * asked.each), native, name)
    try:
        with progress(f"{name}: reading prompts", total=1) as say:
            rows = cue_rows(engine, items, asked.each, running.batch, lambda done, total: say(done=done / total))
            seen = state_rows(engine, with_boxes(items, min(asked.each, DESCRIBED)), running.batch) if describe else []
    except (ItemError, OSError, ValueError, RuntimeError) as error:
        raise Failure(f"{name}: {error}") from error
    where = {"split": asked.split, "question_seed": asked.seed, "device": engine.model.device.type}
    run = {"dtype": str(engine.model.dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
    mine = {"suite": asked.suite, "model": name}
    return Measured(name, *([{**mine, **row, **where, **run} for row in each] for each in (rows, seen)))


def _print(one: Measured) -> None:
    """The mean AUC over tasks, by saliency and layer."""
    from greedyprune.plots.cues import by_layer, cell, kind_of, layers_of

    against = kind_of(one.rows)
    means = by_layer(one.rows, against)
    layers = layers_of(means)
    shown = layers[:: -(-len(layers) // WIDEST)]
    lines = table("saliency", *shown)
    for name, values in means.items():
        lines.add_row(name, *(cell(values.get(layer)) for layer in shown))
    for column in lines.columns[1:]:
        column.justify, column.no_wrap = "right", True
    out = console()
    counts = {row["task"]: row["n"] for row in one.rows if row["against"] == against}
    out.print(f"{one.name}: {sum(counts.values())} questions of {len(counts)} tasks")
    out.print(lines)
    of = "tokens of the other objects of its sort" if against == "objects" else "all other visual tokens"
    out.print(
        f"AUC of the answer's tokens against {of}, the mean over the tasks. 1: first. 0.5: blind. Below 0.5: last.",
        style="dim",
    )
