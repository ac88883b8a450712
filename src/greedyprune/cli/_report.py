"""The report of `greedyprune eval`: pictures, tables and provenance in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greedyprune.outputs import write_text
from greedyprune.plots import overlay, seen, side_by_side
from greedyprune.plots.charts import MEAN, auc_map, frontier, number, task_bars
from greedyprune.plots.page import bullets, folded, heading, page, paragraph, picture, table

if TYPE_CHECKING:
    from PIL.Image import Image

    from greedyprune.cli._plan import Evaluated
    from greedyprune.eval import Config, Item

SHOWN = 2
"""Images whose kept tokens are drawn."""
SYNTHETIC = (
    "These questions are synthetic and the bundled models tiny: the numbers compare methods on this testbed and say "
    "nothing about how accurate a public model is."
)
HOW = (
    "Every configuration answers the same questions; accuracy is exact match, averaged over tasks with equal weight.",
    "Intervals are 95 % paired bootstrap intervals that resample images, since several questions share one. The best "
    "other method is picked on the same questions, which flatters it.",
    "Equal budget means equally many visual tokens kept. Methods that cut later let more layers see all tokens; the "
    "column 'per layer' and the FLOPs say how much that is.",
    "Centred: 0 at the higher of the majority floor and the floor of guessing among the values present, 100 if all is "
    "right. Hard: only questions that the dense model answers right and the down-scaling control does not, at the same "
    "budget. If images cannot be scaled down, the control is average pooling.",
    "Region recall: the share of the answer-carrying visual tokens that stay. The oracle knows these regions.",
)


def write(path: Path, found: Sequence[Evaluated], about: Mapping[str, Any]) -> None:
    """Write the report. Raises OSError if the file cannot be written."""
    parts = [paragraph(SYNTHETIC)] if found[0].rows[0]["suite"] == "testbed" else []
    parts += [heading("How to read this", 3), bullets(HOW)]
    for one in found:
        parts += _model(one)
    parts += [heading("Where these numbers come from"), table(("", ""), [(k, str(v)) for k, v in about.items() if v])]
    write_text(path, page("Accuracy under visual token pruning", parts))


def _model(one: Evaluated) -> list[str]:
    """The part about one model."""
    rows, task = one.rows, MEAN if any(row["task"] == MEAN for row in one.rows) else one.rows[0]["task"]
    dense = next(row for row in rows if row["task"] == task)
    questions, tasks = len(one.answers.items), len(one.answers.tasks)
    about = f"{questions} question{'s' * (questions > 1)} of {tasks} task{'s' * (tasks > 1)}"
    speed = f", {one.speed:.0f} answers per second" if one.speed else ""
    return [
        heading(one.name),
        paragraph(f"{about}; all tokens answer {100 * number(dense, 'accuracy'):.1f} % right{speed}."),
        *_charts(one),
        heading("Means over the tasks", 3),
        table(tuple(COLUMNS), [_cells(row) for row in rows if row["task"] == task]),
        *(folded(f"Accuracy by task at {budget}", _by_task(rows, budget)) for budget in _budgets(rows)),
        folded("Floors of the tasks", _floors(rows)),
    ]


def _charts(one: Evaluated) -> list[str]:
    rows, budget = one.rows, _middle(_budgets(one.rows))
    if budget is None:
        return []
    parts = [
        picture(frontier(rows, f"{one.name}: accuracy against tokens kept"), "Accuracy against visual tokens kept"),
        picture(task_bars(rows, budget, f"{one.name}: every task at {budget}"), f"Accuracy by task at {budget}"),
        paragraph("Dashed: all tokens. Dotted: the chance floor. Thin lines: 95 % intervals of the difference.", True),
        heading("What each method keeps", 3),
        *(picture(sheet, f"Kept tokens at {budget}") for sheet in _sheets(one, budget)),
    ]
    if one.auc:
        parts += [
            heading("Which order finds the answer", 3),
            paragraph(
                "AUC of the order in which a method takes tokens, against the regions that carry the answer, by the "
                "stage at which it looks. 1: regions first. 0.5: chance. Below 0.5: regions last."
            ),
            picture(auc_map(one.auc, one.name), "AUC by method, stage and task"),
        ]
    return parts


def _sheets(one: Evaluated, budget: str) -> list[Image]:
    """Overlays of one question with a region, for each of the tasks on which methods differ most."""
    configs = [c for c in one.answers.configs if c.budget == budget and c.method and not c.method.merges]
    configs = list({(c.name, c.options, c.place): c for c in reversed(configs)}.values())[::-1]  # one seed
    spread: dict[str, float] = {}
    for task in one.answers.tasks:
        levels = [number(row, "accuracy") for row in one.rows if row["task"] == task and row["budget"] == budget]
        spread[task] = max(levels) - min(levels)
    chosen: list[Item] = []
    for task in sorted(spread, key=lambda task: -spread[task]):
        chosen += [item for item in one.answers.items if item.task == task and item.boxes][:1]
    return [_sheet(one, item, configs) for item in chosen[:SHOWN] if configs]


def _sheet(one: Evaluated, item: Item, configs: Sequence[Config]) -> Image:
    engine = one.engine
    batch = engine.prepare(0, [item])
    image, pictures, captions = batch.pictures[0], [], []
    for config in configs:
        told, _, selections = engine.generate(batch, config)
        assert selections is not None
        if selections[0].grid is not None:
            pictures.append(overlay(image, selections[0], part=seen(image, engine.processor), size=252))
            captions.append(f"{config.name} · {config.place}\n{'✓' if item.right(told[0]) else '✗'} {told[0]}")
    answer = " or ".join(item.answers)
    return side_by_side([image, *pictures], [f"the image\n{answer}", *captions], columns=5, width=196, title=item.text)


COLUMNS = {
    "method": lambda row: f"{row['method']} {row['options'] or ''}".strip() + _seed(row),
    "cut at": lambda row: row["stage"] or "–",
    "budget": lambda row: row["budget"],
    "kept": lambda row: f"{number(row, 'kept'):.1f}",
    "per layer": lambda row: f"{number(row, 'averaged'):.1f}",
    "MFLOPs": lambda row: f"{number(row, 'prefill_mflops'):.0f}",
    "accuracy": lambda row: _percent(row, "accuracy"),
    "relative": lambda row: _percent(row, "relative"),
    "centred": lambda row: _percent(row, "centred"),
    "− dense": lambda row: _gap(row, "dense"),
    "− random": lambda row: _gap(row, "random"),
    "− best other": lambda row: _gap(row, "best"),
    "best other": lambda row: row["best_other"] or "–",
    "hard (n)": lambda row: f"{_percent(row, 'hard_accuracy')} ({row['hard_n']})" if row["hard_n"] else "–",
    "region recall": lambda row: _percent(row, "region_recall"),
}


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [str(cell(row)) for cell in COLUMNS.values()]


def _seed(row: Mapping[str, Any]) -> str:
    return "" if row["seed"] in (None, "") else f", seed {row['seed']}"


def _percent(row: Mapping[str, Any], name: str) -> str:
    value = number(row, name)
    return "–" if value != value else f"{100 * value:.1f}"


def _gap(row: Mapping[str, Any], name: str) -> str:
    mean, low, high = (100 * number(row, f"{name}_{end}") for end in ("difference", "low", "high"))
    return "–" if mean != mean else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _budgets(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["budget"] for row in rows if row["method"] != "dense"))


def _middle(budgets: list[str]) -> str | None:
    """The budget whose bars are drawn: 1/9 if it is there, else the middle one."""
    return "1/9" if "1/9" in budgets else budgets[len(budgets) // 2] if budgets else None


def _by_task(rows: Sequence[Mapping[str, Any]], budget: str) -> str:
    """Methods by tasks."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["budget"] in ("all", budget):
            name = f"{COLUMNS['method'](row)} · {row['stage']}".removesuffix(" · ")
            lines.setdefault(name, {})[row["task"]] = _percent(row, "accuracy")
    return table(("", *tasks), [[name, *(cells[task] for task in tasks)] for name, cells in lines.items()])


def _floors(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of the floors by task."""
    dense = [row for row in rows if row["method"] == "dense"]
    names = {"n": "questions", "majority_floor": "majority", "guess_floor": "guess among values present"}
    cells = [[row["task"], str(row["n"]), *(_percent(row, name) for name in list(names)[1:])] for row in dense]
    return table(("task", *names.values()), cells)
