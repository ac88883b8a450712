"""The figure of the rows of `greedyprune cues`: AUC by decoder layer, one line per saliency, one panel per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from greedyprune.plots.charts import INK, LINES, OWN, PALE, Figure
from greedyprune.plots.cues import Row, by_layer, kind_of, layers_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "cosine last": OWN,
    "cosine mean": "#0072b2",
    "cosine max": "#009e73",
    "attention last": "#e69f00",
    "attention question": "#cc79a7",
    "key norm": "#8c6d31",
    "value norm": "#7b5ea7",
    "change": "#9aa1ab",
}
LINES_OF = {"centred": "--", "scaled": ":"}
"""A centred or scaled cosine has the colour of the other."""


def cue_lines(rows: Sequence[Row], title: str = "", tasks: Sequence[str] | None = None) -> Figure:
    """One model's AUC against the other objects (against all tokens, if no others are known) by layer.

        rows = [row for row in greedyprune.outputs.read_csv(path) if row["model"] == "llava"]
        greedyprune.plots.cue_lines.cue_lines(rows, "llava").savefig("cues.png")

    A line at 0.5 is what a blind saliency gives. Raises ValueError if there are no such rows.
    """
    against = kind_of(rows)
    tables = {
        task: by_layer(rows, against, [task])
        for task in dict.fromkeys(row["task"] for row in rows if row["against"] == against)
        if tasks is None or task in tasks
    }
    if not tables:
        raise ValueError("there is nothing to draw: pass rows of greedyprune cues, and tasks that they hold.")
    across = min(3, len(tables))
    down = -(-len(tables) // across)
    figure = Figure(figsize=(2.2 + 3.1 * across, 0.9 + 2.4 * down), layout="constrained")
    grid = figure.subplots(down, across, sharey=True, squeeze=False).flatten()
    for axes, (task, table) in zip(grid, tables.items(), strict=False):
        _panel(axes, task, table)
    for axes in grid[len(tables) :]:
        axes.set_visible(False)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8.5)
    of = "tokens of the other objects" if against == "objects" else "all other visual tokens"
    figure.supylabel(f"AUC of the answer's tokens against {of}", fontsize=9, color=INK)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def _panel(axes: Axes, task: str, table: dict[str, dict[str, float]]) -> None:
    layers = layers_of(table)
    axes.axhline(0.5, color=PALE, lw=1, ls=":")
    for name, values in table.items():
        plain, _, kind = name.rpartition(" ") if name.endswith((*LINES_OF,)) else (name, "", "")
        x = [place for place, layer in enumerate(layers) if layer in values]
        y = [values[layers[place]] for place in x]
        axes.plot(x, y, color=COLOURS.get(plain, INK), ls=LINES_OF.get(kind, "-"), lw=1.6, marker="o", ms=3, label=name)
    step = -(-len(layers) // 8)
    axes.set(ylim=(-0.02, 1.02), xticks=range(0, len(layers), step))
    axes.set_xticklabels([layer.removeprefix("layer:") for layer in layers[::step]])
    axes.set_title(task, fontsize=9.5, color=INK, loc="left")
    axes.grid(axis="y", color=LINES, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
