"""Charts of an evaluation's rows: frontier, per-task bars and saliency maps, as matplotlib figures.

Rows are those of `greedyprune eval`, read from its CSV file or as they are: one per method, budget, seed and task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as missing:
    raise ImportError(
        "greedyprune.plots.charts needs matplotlib, which is not installed: pip install 'greedyprune[testbed]'"
    ) from missing

from greedyprune.registry import DEFAULT

Row = Mapping[str, Any]
INK, PALE, LINES = "#1c1f24", "#6b727c", "#e3e6ea"
COLOURS = ("#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8c6d31", "#7b5ea7")
"""For methods in the order of the rows, the default one and controls apart. They differ for colour-blind eyes too."""
OWN, CONTROLS = "#d7301f", {"random": ("-", "s"), "grid": ("--", "^"), "pool": ("-.", "v"), "downscale": (":", "P")}
MEAN = "mean"


@dataclass(frozen=True)
class Style:
    """The colour, marker and line of a method."""

    colour: str
    line: Any = "-"
    width: float = 1.8
    marker: str = "o"


@dataclass(frozen=True)
class Point:
    """One method at one budget, seeds averaged."""

    budget: str
    kept: float
    accuracy: float
    low: float
    high: float


def number(row: Row, name: str) -> float:
    """A value of a row; NaN if it is empty."""
    value = row.get(name)
    return float("nan") if value in (None, "") else float(str(value))


def label(row: Row) -> str:
    """The name of a line: the method, its options if they are not the defaults, and the stage of the cut."""
    name = f"{row['method']} {row['options'] or ''}".strip()
    return f"{name} · {row['stage']}" if row["stage"] else name


def styles(rows: Iterable[Row]) -> dict[str, Style]:
    """A style for every method, the same in all pictures of these rows."""
    found: dict[str, Style] = {}
    colours = {DEFAULT: OWN}
    stages: dict[str, list[str]] = {}
    for row in rows:
        name, method = label(row), row["method"]
        if name in found or method == "dense":
            continue
        seen = stages.setdefault(method, [])
        seen.append(name)
        line = "-" if len(seen) == 1 else (0, (5 / len(seen), 1))  # other stages and options of a method
        if method == "oracle":
            found[name] = Style(INK, ":", 1.6, "D")
        elif method in CONTROLS:
            dashes, marker = CONTROLS[method]
            found[name] = Style("#9aa1ab", dashes, 1.6, marker)
        else:
            used = len(colours) - 1
            colour = colours.setdefault(method, COLOURS[used % len(COLOURS)])
            found[name] = Style(colour, line, 2.6 if colour == OWN else 1.8)
    return found


def lines(rows: Iterable[Row], task: str = MEAN) -> dict[str, list[Point]]:
    """The points of every method on one task, the largest budget first."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row["task"] == task and row["method"] != "dense":
            groups.setdefault(label(row), {}).setdefault(row["budget"], []).append(row)
    found = {name: [_point(budget, some) for budget, some in budgets.items()] for name, budgets in groups.items()}
    return {name: sorted(points, key=lambda point: -point.kept) for name, points in found.items()}


def _point(budget: str, rows: list[Row]) -> Point:
    def mean(name: str) -> float:
        return sum(number(row, name) for row in rows) / len(rows)

    accuracy, gap = mean("accuracy"), mean("dense_difference")
    low, high = (accuracy - gap + mean(f"dense_{end}") for end in ("low", "high"))
    return Point(budget, mean("kept"), accuracy, low, high)


def frontier(rows: Sequence[Row], title: str = "") -> Figure:
    """Accuracy against visual tokens kept; bands are the 95 % intervals of the difference to all tokens."""
    figure, axes = _axes(title, "visual tokens kept (log)", "accuracy, mean over tasks (%)")
    drawn, looks = lines(rows, _task(rows)), styles(rows)
    for name, points in drawn.items():
        x, style = [point.kept for point in points], looks[name]
        axes.fill_between(
            x, [100 * p.low for p in points], [100 * p.high for p in points], color=style.colour, alpha=0.12, lw=0
        )
        _line(axes, name, style, x, [100 * point.accuracy for point in points])
    _dense(axes, rows)
    _ticks(axes, drawn)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -1), min(top, 101))
    _legend(figure, axes)
    return figure


def task_bars(rows: Sequence[Row], budget: str, title: str = "") -> Figure:
    """One panel per task, one bar per method at one budget; a dashed line is dense, a dotted one the chance floor."""
    tasks = [task for task in dict.fromkeys(row["task"] for row in rows) if task != MEAN]
    looks, across = styles(rows), min(5, len(tasks))
    down = -(-len(tasks) // across)
    names = [name for name in looks if any(p.budget == budget for p in lines(rows, tasks[0]).get(name, []))]
    figure = Figure(figsize=(1.6 + 2.25 * across, 0.8 + (0.55 + 0.235 * len(names)) * down), layout="constrained")
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(tasks):
            axes.set_visible(False)
            continue
        task = tasks[place]
        found = {name: [p for p in points if p.budget == budget] for name, points in lines(rows, task).items()}
        for level, name in enumerate(names):
            point = found[name][0]
            axes.barh(level, 100 * point.accuracy, color=looks[name].colour, height=0.74)
            axes.plot([100 * point.low, 100 * point.high], [level, level], color=INK, lw=1.1, solid_capstyle="butt")
            axes.text(103, level, f"{100 * point.accuracy:.0f}", va="center", fontsize=7, color=INK)
        dense = next(row for row in rows if row["method"] == "dense" and row["task"] == task)
        axes.axvline(100 * number(dense, "accuracy"), color=INK, lw=1, ls="--")
        floors = [number(dense, name) for name in ("majority_floor", "guess_floor")]
        axes.axvline(100 * max(floor for floor in floors if floor == floor), color=INK, lw=1.2, ls=":")
        axes.set(
            xlim=(0, 101),
            xticks=(0, 50, 100),
            ylim=(len(names) - 0.4, -0.6),
            yticks=range(len(names)),
            yticklabels=names,
        )
        axes.set_title(task, fontsize=9.5, color=INK, loc="left")
        _plain(axes)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def auc_map(rows: Sequence[Row], title: str = "") -> Figure:
    """AUC of each order against the answer regions: one panel per method, tasks by stages."""
    names, stages, tasks = (list(dict.fromkeys(row[key] for row in rows)) for key in ("saliency", "stage", "task"))
    values = {(row["saliency"], row["task"], row["stage"]): number(row, "auc") for row in rows}
    across = min(len(names), 4)
    down = -(-len(names) // across)
    figure = Figure(figsize=(1.2 + 2.5 * across, 0.9 + (0.75 + 0.24 * len(tasks)) * down), layout="constrained")
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    image = None
    for place, axes in enumerate(grid.flat):
        if place >= len(names):
            axes.set_visible(False)
            continue
        table = [[values.get((names[place], task, stage), float("nan")) for stage in stages] for task in tasks]
        image = axes.imshow(table, vmin=0, vmax=1, cmap="RdBu_r", aspect="auto")
        for y, line in enumerate(table):
            for x, value in enumerate(line):
                text = "–" if value != value else f"{value:.2f}".removeprefix("0")
                dark = abs(value - 0.5) > 0.33
                axes.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if dark else INK)
        axes.set(xticks=range(len(stages)), xticklabels=stages, yticks=range(len(tasks)), yticklabels=tasks)
        axes.set_title(names[place], fontsize=9.5, color=INK, loc="left")
        axes.tick_params(length=0, labelsize=7.5, colors=INK)
        for side in axes.spines.values():
            side.set_visible(False)
    if image is not None:
        bar = figure.colorbar(image, ax=grid, shrink=0.5, aspect=18)
        bar.ax.tick_params(labelsize=7.5)
        bar.set_label("AUC: blind 0.5", fontsize=8)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def _task(rows: Sequence[Row]) -> str:
    """The mean over tasks, or the only task."""
    return MEAN if any(row["task"] == MEAN for row in rows) else str(rows[0]["task"])


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.2, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.grid(axis="y", color=LINES, lw=0.8)
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    for name, side in axes.spines.items():
        side.set_visible(name == "bottom")
        side.set_color(PALE)


def _line(axes: Axes, name: str, style: Style, x: list[float], y: list[float]) -> None:
    front = 5 if style.colour == OWN else 3
    axes.plot(
        x, y, color=style.colour, ls=style.line, lw=style.width, marker=style.marker, ms=4.5, label=name, zorder=front
    )


def _dense(axes: Axes, rows: Sequence[Row]) -> None:
    """The line of all tokens."""
    dense = next(row for row in rows if row["method"] == "dense" and row["task"] == _task(rows))
    axes.axhline(100 * number(dense, "accuracy"), color=INK, lw=1, label="dense")


def _ticks(axes: Axes, drawn: Mapping[str, list[Point]]) -> None:
    """Ticks at the budgets, of the method that uses them most fully."""
    fullest: dict[str, Point] = {}
    for points in drawn.values():
        for point in points:
            if point.budget not in fullest or point.kept > fullest[point.budget].kept:
                fullest[point.budget] = point
    axes.set_xticks([p.kept for p in fullest.values()], [f"{p.kept:.0f}\n({p.budget})" for p in fullest.values()])
    axes.minorticks_off()


def _legend(figure: Figure, axes: Axes) -> None:
    """Beside the lines, in the order of their right ends as far as possible."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8.5)
