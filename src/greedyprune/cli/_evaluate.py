"""Running what `greedyprune eval` was asked for: model by model, into rows, a table on the screen, and files."""

from __future__ import annotations

import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greedyprune.cli import _suite
from greedyprune.cli._errors import Failure, note
from greedyprune.cli._outputs import written
from greedyprune.cli._show import console, print_json, progress, table

if TYPE_CHECKING:
    from greedyprune.cli.eval import Plan
    from greedyprune.eval import Answers, Config, Engine, Item

MOST_WORKERS = 8


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One model's results."""

    name: str
    engine: Engine
    answers: Answers
    rows: list[dict[str, Any]]
    auc: list[dict[str, Any]]
    """How well orders of taking tokens find the answer regions; empty if nobody asked."""
    speed: float
    """Answers per second, of those given now; 0 if all were there."""
    seconds: float


def everything(
    plan: Plan, out: Path | None, run: Path | None, report: Path | None, auc: Path | None, as_json: bool
) -> None:
    """Evaluate every model, print the rows and write the files."""
    from greedyprune.bench import rows as results

    save: Any = None
    if report is not None:  # here, so that what it lacks is told before the work
        from greedyprune.cli._report import write as save
    found: list[Evaluated] = []
    own = None if plan.data is None else _suite.own(plan.data, plan.questions)
    with tempfile.TemporaryDirectory() as passing:
        for name in plan.models:
            engine = _engine(plan, name)
            items = own or _items(plan, engine)
            folder = (run or Path(passing)) / re.sub(r"\W+", "-", name).strip("-")
            found.append(_one(plan, name, engine, items, folder, bool(report or auc)))
    rows = [row for one in found for row in one.rows]
    orders = [row for one in found for row in one.auc]
    if auc is not None and not orders:
        note(f"warning: {auc} is not written: no question says with boxes where its answer is to be seen.")
        auc = None
    about = {**results.provenance(), **_common(plan)}
    problems = [
        written("--out", out, lambda path: results.write(path, rows)),
        written("--auc", auc, lambda path: results.write(path, orders)),
        written("--report", report, lambda path: save(path, found, about)),
    ]
    if as_json:
        print_json(rows)
    else:
        for one in found:
            _print(one)
    if any(problems):
        raise Failure(" ".join(str(problem) for problem in problems if problem))


def _engine(plan: Plan, name: str) -> Engine:
    """A model ready for questions."""
    from greedyprune.eval import Engine

    try:
        with progress(f"loading {name}"):
            return Engine(*_suite.loader(name, plan.device, plan.dtype)(), max_new_tokens=plan.longest)
    except (OSError, ValueError) as error:
        raise Failure(f"cannot load the model {name!r}: {error}") from error


def _items(plan: Plan, engine: Engine) -> list[Item]:
    """The questions for a model."""
    native = not engine.parts.family.takes_one_size(engine.parts.config)
    return _suite.items(plan.suite, plan.questions, plan.split, plan.seed, native)


def _one(plan: Plan, name: str, engine: Engine, items: list[Item], folder: Path, looks: bool) -> Evaluated:
    """All configurations of one model."""
    from greedyprune.bench.rows import commit
    from greedyprune.eval import Job, evaluate, rows
    from greedyprune.eval.engine import ItemError

    configs = _configs(plan, engine, items[0])
    workers = plan.workers or _workers(plan, name)
    about = {"model": name, "commit": commit()}
    job = Job(items, configs, plan.batch, workers, _suite.loader(name, plan.device, plan.dtype), about)
    before: list[int] = []
    try:
        with progress(f"{name}: {len(configs)} configurations", total=len(items) * len(configs)) as step:

            def say(done: int, total: int) -> None:
                step(step=done - (before[-1] if before else 0))
                before.append(done)

            begun = time.perf_counter()
            answers = evaluate(engine, job, folder, say)
            seconds = time.perf_counter() - begun
    except (ItemError, OSError, ValueError, RuntimeError) as error:
        raise Failure(f"{name}: {error}") from error
    more = {
        **_common(plan),
        "device": engine.model.device.type,
        "dtype": str(engine.model.dtype).removeprefix("torch."),
        "workers": workers,
    }
    made = [{"suite": plan.suite, "model": name, **row, **more} for row in rows(answers)]
    orders = _orders(plan, name, engine, items) if looks else []
    return Evaluated(name, engine, answers, made, orders, (before[-1] - before[0]) / seconds, seconds)


def _orders(plan: Plan, name: str, engine: Engine, items: list[Item]) -> list[dict[str, Any]]:
    """How well each method's order finds the answer regions, by stage."""
    from greedyprune.eval.auc import auc_rows

    with progress(f"{name}: which tokens come first"):
        return [{"suite": plan.suite, "model": name, **row, **_common(plan)} for row in auc_rows(engine, items)]


def _common(plan: Plan) -> dict[str, Any]:
    """What is the same for every model."""
    import torch

    return {"split": plan.split, "question_seed": plan.seed, "threads": torch.get_num_threads()}


def _configs(plan: Plan, engine: Engine, item: Item) -> list[Config]:
    """What is compared. What was named has to work; of all that is registered, what the model cannot do is left out."""
    from greedyprune.eval import configurations
    from greedyprune.eval.configs import usual_methods
    from greedyprune.eval.loop import refused

    named = plan.methods
    methods: list[Any] = named or []
    for name in [] if named is not None else usual_methods(not engine.parts.family.cannot_downscale, plan.every):
        try:
            configurations([name], plan.budgets, plan.stages, plan.seeds)
            methods.append(name)
        except ValueError as error:
            note(f"warning: {name} is left out: {error}")
    try:
        for stage in plan.stages:
            if stage is not None:
                engine.parts.check_stage(stage)
        configs = configurations(methods, plan.budgets, plan.stages, plan.seeds)
    except ValueError as error:
        raise Failure(str(error)) from error
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


def _workers(plan: Plan, name: str) -> int:
    """A process per core for the small bundled models; larger ones use all cores, or a GPU, from one process."""
    small = name in _suite.MODELS and plan.device.startswith("cpu")
    return min(os.cpu_count() or 1, MOST_WORKERS) if small else 1


def _print(one: Evaluated) -> None:
    """Mean accuracy by method and budget."""
    by_task = {row["task"] for row in one.rows}
    task = "mean" if "mean" in by_task else next(iter(by_task))
    rows = [row for row in one.rows if row["task"] == task]
    dense, budgets = rows[0], list(dict.fromkeys(row["budget"] for row in rows[1:]))
    shown = table("method", "cut at", *budgets)
    lines: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows[1:]:
        name = f"{row['method']} {row['options']}".strip()
        lines.setdefault((name, row["stage"]), {}).setdefault(row["budget"], []).append(row)
    for (name, stage), cells in lines.items():
        shown.add_row(name, stage, *(_cell(cells.get(budget, [])) for budget in budgets))
    for place, column in enumerate(shown.columns):
        column.justify, column.no_wrap = "right" if place > 1 else "left", place > 0
    out = console()
    out.print(f"{one.name}: dense {100 * dense['accuracy']:.1f} % right, {len(one.answers.items)} questions")
    out.print(shown)
    speed = f"{one.speed:.0f} answers per second, {one.seconds:.0f} s" if one.speed else "all answers were there"
    out.print(
        "Per cent right, the mean over the tasks, ± half the 95 % interval of the difference to dense. "
        f"Methods that draw lots: the mean of their seeds. {speed}.",
        style="dim",
    )


def _cell(rows: list[dict[str, Any]]) -> str:
    """The accuracy at one budget; of several seeds, their mean without an interval."""
    if not rows:
        return "-"
    mean = 100 * sum(row["accuracy"] for row in rows) / len(rows)
    if len(rows) > 1 or rows[0]["dense_low"] is None:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {50 * (rows[0]['dense_high'] - rows[0]['dense_low']):.1f}"
