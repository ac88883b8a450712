"""Charts draw what rows say, whether they come from memory or from a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from greedyprune.bench.rows import write
from greedyprune.eval import rows
from greedyprune.plots import charts, page
from greedyprune.registry import DEFAULT
from made_answers import RIGHT, answers


@pytest.fixture(scope="module", params=["memory", "file"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    found = rows(answers(RIGHT)[0], resamples=50)
    if request.param == "memory":
        return found
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    write(path, found)
    with path.open() as file:
        return list(csv.DictReader(file))


def test_lines_average_seeds_and_carry_their_intervals(made: list[Any]) -> None:
    drawn = charts.lines(made)
    assert set(drawn) == {"greedyprune · layer:2", "random · layer:2", "pool · input", "oracle · layer:2"}
    (point,) = drawn["random · layer:2"]
    assert (point.budget, point.kept, point.accuracy) == ("1/4", 4.0, 0.125)
    (ours,) = drawn["greedyprune · layer:2"]
    assert ours.low <= ours.accuracy <= ours.high
    looks = charts.styles([*made, *({**row, "method": DEFAULT} for row in made if row["method"] == "greedyprune")])
    assert looks["soft_greedyprune · layer:2"].colour == charts.OWN
    assert len({(look.colour, look.line) for look in looks.values()}) == len(looks)


def test_every_chart_is_drawn(made: list[Any]) -> None:
    orders = [{"saliency": "cls", "stage": at, "task": "a", "auc": "0.7"} for at in ("input", "layer:1")]
    figures = [charts.frontier(made), charts.task_bars(made, "1/4"), charts.auc_map(orders)]
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=40)
        assert buffer.getvalue().startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    assert axes.get_xticklabels()[0].get_text() == "4\n(1/4)"
    panels = [axes for axes in figures[1].axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["a", "b"]
    bars = [round(float(bar.get_width()), 6) for bar in panels[0].patches]
    assert bars == [100, 25, 50, 100]  # GreedyPrune, random, pooling, the oracle


def test_a_page_shows_texts_as_they_are(tmp_path: Path) -> None:
    made = page.page("<a> & b", [page.paragraph("x < y", pale=True), page.table(["h"], [["<script>"]])])
    assert "<script" not in made
    assert "&lt;a&gt; &amp; b" in made
    assert made.startswith("<!doctype html>")
