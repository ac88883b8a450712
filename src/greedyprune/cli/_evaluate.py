"""Running what `greedyprune eval` was asked for: model by model, into rows, a table on the screen, and files."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greedyprune import testbed
from greedyprune.bench import rows as results
from greedyprune.cli import _models, _own_questions, _suite
from greedyprune.cli._errors import Failure, note
from greedyprune.cli._outputs import written
from greedyprune.cli._plan import Evaluated
from greedyprune.cli._show import console, print_json, progress, table
from greedyprune.outputs import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greedyprune.cli._plan import Compared, Plan, Questions
    from greedyprune.eval import Answers, Config, Engine, Item

MOST_WORKERS = 8
FEWEST, MOST = 5, 25
"""Questions of each task whose answer's region is compared with the order of tokens."""
SMALL = 0.05
"""The loss that questions should be able to show; if they cannot, that is said."""


def evaluate_models(plan: Plan) -> None:
    """Evaluate every model, print its rows and write the files.

    The CSV files are written again after every model, and a model that fails does not stop the others: what one model
    gave is not lost when another one fails. Raises Failure at the end if a model failed or a file is not written.
    """
    write_report = _report_writer(plan.files.report)
    asked = plan.questions
    own = None if asked.folder is None else _own_questions.items(asked.folder, asked.each, asked.asking)
    found: list[Evaluated] = []
    unwritten: dict[str, Failure | None] = {}
    with tempfile.TemporaryDirectory() as passing:

        def measure(name: str) -> Evaluated:
            folder = (plan.files.run or Path(passing)) / re.sub(r"\W+", "-", name).strip("-")
            found.append(one := _evaluate_model(plan, name, own, folder))
            unwritten.update(_write_tables(plan, found))
            if not plan.as_json:
                _print(one, several=plan.compared.stages == [None])
            if plan.files.report or plan.files.auc:  # after the table, for it takes minutes
                found[-1] = replace(one, auc=_auc_rows(plan, one))
            return found[-1]

        def take(one: Evaluated) -> None:
            unwritten.update(_write_tables(plan, found) if one.auc else {})

        failed = _models.each(plan.models, measure, take)
    if not found and len(failed) == 1:
        raise next(iter(failed.values()))
    if found and plan.files.auc is not None and not any(one.auc for one in found):
        note(f"warning: {plan.files.auc} is not written: no question has boxes that say where its answer is.")
    about = {**results.provenance(), **_shared_columns(plan.questions)}
    report = plan.files.report if found else None
    unwritten["--report"] = written("--report", report, lambda path: write_report(path, found, about))
    if plan.as_json:
        print_json([row for one in found for row in one.rows])
    _models.raise_problems([one.name for one in found], failed, [each for each in unwritten.values() if each])


def _report_writer(path: Path | None) -> Callable[[Path, Sequence[Evaluated], dict[str, Any]], None]:
    """The function that writes the report, if one is wanted. Raises ImportError if a package for it is missing."""
    if path is None:
        return lambda *_: None
    from greedyprune.cli._report import write  # before the work, since it needs packages of an extra

    return write


def _write_tables(plan: Plan, found: Sequence[Evaluated]) -> dict[str, Failure | None]:
    """Write the files of rows and answers, all that is there so far. -> by option, the reason if one is not written"""
    rows = [row for one in found for row in one.rows]
    orders = [row for one in found for row in one.auc]
    return {
        "--answers": written("--answers", plan.files.answers, lambda path: write_text(path, _lines(found))),
        "--out": written("--out", plan.files.rows, lambda path: results.write(path, rows)),
        "--auc": written("--auc", plan.files.auc if orders else None, lambda path: results.write(path, orders)),
    }


def _lines(found: Sequence[Evaluated]) -> str:
    """Every answer of all models, a line of JSON for each."""
    told = ({"model": one.name, **answer} for one in found for answer in one.answers.listed())
    return "".join(json.dumps(answer) + "\n" for answer in told)


def _evaluate_model(plan: Plan, name: str, own: list[Item] | None, folder: Path) -> Evaluated:
    """All configurations of one model. Raises Failure if the model cannot be loaded or a question fails."""
    engine = _models.engine(name, plan.running)
    native = not engine.parts.family.takes_one_size(engine.parts.config)
    items = own or _suite.shipped(plan.questions, native, name)
    answers, seconds, workers = _answers(plan, name, engine, items, folder)
    return Evaluated(
        name,
        engine,
        answers,
        rows=_rows(plan, name, engine, answers, workers),
        auc=[],
        seconds=seconds,
    )


def _answers(plan: Plan, name: str, engine: Engine, items: list[Item], folder: Path) -> tuple[Answers, float, int]:
    """Everything that one model answers. -> the answers, wall seconds, worker processes"""
    from greedyprune.eval import Job, evaluate
    from greedyprune.eval.engine import ItemError

    running = plan.running
    configs = _configs(plan.compared, engine, items[0])
    workers = running.workers or _workers(name, running.device)
    job = Job(
        items,
        configs,
        running.batch,
        workers,
        load=_suite.loader(name, running.device, running.dtype),
        about={"model": name, "commit": results.commit()},
    )
    try:
        with progress(f"{name}: {len(configs)} configurations", total=len(items) * len(configs)) as say:
            begun = time.perf_counter()
            answers = evaluate(engine, job, folder, lambda done, _: say(done=done))
            return answers, time.perf_counter() - begun, workers
    except (ItemError, OSError, ValueError, RuntimeError) as error:
        raise Failure(f"{name}: {error}") from error


def _rows(plan: Plan, name: str, engine: Engine, answers: Answers, workers: int) -> list[dict[str, Any]]:
    """The rows of one model, with device, type and workers in each."""
    from greedyprune.eval import rows

    model = engine.model
    run = {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch."), "workers": workers}
    more = {**_shared_columns(plan.questions), **run}
    return [{"suite": plan.questions.suite, "model": name, **row, **more} for row in rows(answers)]


def _auc_rows(plan: Plan, one: Evaluated) -> list[dict[str, Any]]:
    """The AUC of each method's order against the answer regions, by stage, over an eighth of the questions."""
    from greedyprune.eval.auc import auc_rows, rankings

    each = min(max(plan.questions.each // 8, FEWEST), MOST)
    with progress(f"{one.name}: which tokens come first", total=len(rankings())) as say:
        found = auc_rows(one.engine, one.answers.items, each, told=lambda done: say(done=done))
    return [
        {"suite": plan.questions.suite, "model": one.name, **row, **_shared_columns(plan.questions)} for row in found
    ]


def _shared_columns(questions: Questions) -> dict[str, Any]:
    """The columns that are the same for every model."""
    import torch

    return {"split": questions.split, "question_seed": questions.seed, "threads": torch.get_num_threads()}


def _configs(compared: Compared, engine: Engine, item: Item) -> list[Config]:
    """The configurations of one model. A method that was named has to work; any other is left out if it cannot run."""
    from greedyprune.eval import configurations
    from greedyprune.eval.configs import BESIDE, PERTURBED, usual_methods
    from greedyprune.eval.loop import refused
    from greedyprune.eval.perturbed import with_perturbations

    named = compared.methods
    methods: list[Any] = named or []
    usual = usual_methods(not engine.parts.family.cannot_downscale, compared.every)
    if compared.perturbed and not compared.every:
        usual = [*PERTURBED, *BESIDE]
    for name in [] if named is not None else usual:
        try:
            configurations([name], compared.budgets, compared.stages, compared.seeds)
            methods.append(name)
        except ValueError as error:
            note(f"warning: {name} is left out: {error}")
    try:
        for stage in compared.stages:
            if stage is not None:
                engine.parts.check_stage(stage)
        configs = configurations(methods, compared.budgets, compared.stages, compared.seeds)
    except ValueError as error:
        raise Failure(str(error)) from error
    configs = with_perturbations(configs) if compared.perturbed else configs
    reasons = refused(engine, item, configs)
    told: set[str] = set()
    for config in configs:
        if config.key not in reasons:
            continue
        if named is not None or config.keep is None:
            raise Failure(f"{config} cannot run on this model: {reasons[config.key]}")
        if f"{config.name} {reasons[config.key]}" not in told:
            told.add(f"{config.name} {reasons[config.key]}")
            note(f"warning: {config} is left out: {reasons[config.key]}")
    return [config for config in configs if config.key not in reasons]


def _workers(name: str, device: str) -> int:
    """A process per core for the small bundled models; larger ones use all cores, or a GPU, from one process."""
    small = name in testbed.MODELS and device.startswith("cpu")
    return min(os.cpu_count() or 1, MOST_WORKERS) if small else 1


def _print(one: Evaluated, several: bool) -> None:
    """Mean accuracy by method and budget. `several`: each method is cut at its own place."""
    by_task = {row["task"] for row in one.rows}
    task = "mean" if "mean" in by_task else next(iter(by_task))
    rows = [row for row in one.rows if row["task"] == task]
    (dense, *blind), rows = ([row for row in rows if (row["method"] == "dense") == own] for own in (True, False))
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    shown = table("method", "cut at", *budgets)
    lines: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        name = " ".join(filter(None, (row["method"], row["options"], _under(row))))
        lines.setdefault((name, row["stage"]), {}).setdefault(row["budget"], []).append(row)
    for (name, stage), cells in lines.items():
        shown.add_row(name, stage, *(_cell(cells.get(budget, [])) for budget in budgets))
    for place, column in enumerate(shown.columns):
        column.justify, column.no_wrap = "right" if place > 1 else "left", place > 0
    out = console()
    grey = f", {100 * blind[0]['accuracy']:.1f} % on grey pictures" if blind else ""
    out.print(f"{one.name}: dense {100 * dense['accuracy']:.1f} % right{grey}, {len(one.answers.items)} questions")
    out.print(shown)
    speed = (
        f"{one.speed:.0f} answers per second, {one.seconds:.0f} s"
        if one.speed
        else "all answers were in the run folder"
    )
    out.print(
        "Per cent right, the mean over the tasks, ± half the 95 % interval of the difference to dense. "
        f"Random methods: mean over seeds. {speed}.",
        style="dim",
    )
    if several and len(stages := {stage for _, stage in lines}) > 1:
        out.print(
            f"Methods are cut at their own places here ({', '.join(sorted(stages))}), which tells them apart, too: "
            "--at layer:2 cuts all of them there."
        )
    if (few := _few(one.answers.items)) is not None:
        out.print(few)


def _few(items: list[Item]) -> str | None:
    """What so few questions cannot show; None if they are many."""
    from greedyprune.eval.stats import unseen_loss

    pictures = len({item.picture for item in items})
    if (least := unseen_loss(pictures)) <= SMALL:
        return None
    return (
        f"Few questions: {len(items)} about {pictures} pictures. Even where no answer changes, a loss of up to "
        f"{100 * least:.0f} points may be there."
    )


def _under(row: dict[str, Any]) -> str:
    """The perturbation of a row as part of its name; empty if it has none."""
    from greedyprune.eval.table import PLAIN

    return "" if row.get("perturbation", PLAIN) == PLAIN else f"under {row['perturbation']}"


def _cell(rows: list[dict[str, Any]]) -> str:
    """The accuracy at one budget; of several seeds, their mean without an interval."""
    if not rows:
        return "-"
    mean = 100 * sum(row["accuracy"] for row in rows) / len(rows)
    if len(rows) > 1 or rows[0]["dense_low"] is None:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {50 * (rows[0]['dense_high'] - rows[0]['dense_low']):.1f}"
