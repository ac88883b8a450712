"""Tables and the figure of what saliencies are worth say what the rows say, from memory or from a CSV file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from greedyprune.bench.rows import write
from greedyprune.outputs import read_csv
from greedyprune.plots.cue_lines import cue_lines
from greedyprune.plots.cues import by_layer, kind_of, layers_of, markdown


def row(task: str, layer: str, saliency: str, auc: float, against: str = "objects") -> dict[str, Any]:
    return {"task": task, "layer": layer, "saliency": saliency, "against": against, "n": 3, "auc": auc}


ROWS = [
    row("a", "input", "cosine last", 0.5),
    row("a", "layer:2", "cosine last", 1.0),
    row("a", "layer:10", "cosine last", 0.25),
    row("a", "layer:2", "change", 0.4),
    row("a", "layer:10", "change", 0.4),
    row("b", "input", "cosine last", 0.7),
    row("b", "layer:2", "cosine last", 0.5),
    row("b", "layer:10", "cosine last", 0.5),
    row("b", "layer:2", "change", 0.6),
    row("b", "layer:10", "change", 0.6),
    row("a", "input", "cosine last", 0.9, "all"),
    row("c", "input", "cosine last", 0.8, "all"),
]


@pytest.fixture(params=["memory", "file"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> list[Any]:
    if request.param == "memory":
        return ROWS
    write(tmp_path / "rows.csv", ROWS)
    return read_csv(tmp_path / "rows.csv")


def test_means_weigh_tasks_alike_and_layers_stand_in_order(rows: list[Any]) -> None:
    table = by_layer(rows)
    assert table["cosine last"] == {"input": 0.6, "layer:2": 0.75, "layer:10": 0.375}
    assert by_layer(rows, "all")["cosine last"] == {"input": pytest.approx(0.85)}
    assert by_layer(rows, tasks=["b"])["change"] == {"layer:2": 0.6, "layer:10": 0.6}
    assert layers_of({"x": {"layer:10": 0.1}, "y": {"layer:2": 0.1, "input": 0.1}}) == ["input", "layer:2", "layer:10"]
    assert markdown(rows) == (
        "| saliency | input | layer:2 | layer:10 |\n|---|---|---|---|\n"
        "| cosine last | .60 | .75 | .38 |\n| change | – | .50 | .50 |"
    )
    assert (kind_of(rows), kind_of(rows[-1:])) == ("objects", "all")
    with pytest.raises(ValueError, match="no row of the tasks z is against 'objects'"):
        by_layer(rows, tasks=["z"])


def test_the_figure_has_a_panel_per_task_and_a_line_per_saliency(rows: list[Any]) -> None:
    figure = cue_lines(rows, "a model")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["a", "b"]
    blind, *lines = panels[0].get_lines()
    assert set(blind.get_ydata()) == {0.5}
    assert [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in lines] == [
        ("cosine last", [0, 1, 2], [0.5, 1.0, 0.25]),
        ("change", [1, 2], [0.4, 0.4]),
    ]
    assert [text.get_text() for text in panels[0].get_xticklabels()] == ["input", "2", "10"]
    assert len([axes for axes in cue_lines(rows, tasks=["b"]).axes if axes.get_visible()]) == 1
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=40)
    assert buffer.getvalue().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to draw"):
        cue_lines(rows, tasks=["z"])
