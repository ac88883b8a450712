"""Tuning goes from the largest budget to the smallest, stops where a loss may be, and knows what few pictures show."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from greedyprune.budget import Ratio
from greedyprune.eval import tune
from greedyprune.eval.items import Item
from greedyprune.eval.stats import pictures_for, unseen_loss

BUDGETS = {"1/9": Ratio(1 / 9), "1/2": Ratio(0.5), "1/18": Ratio(1 / 18), "1/4": Ratio(0.25)}
LOWS = {"1/2": 0.0, "1/4": -0.01, "1/9": -0.021, "1/18": 0.0}


def items(pictures: int) -> list[Item]:
    return [Item(f"q{i}", "t", None, f"p{i}", "?", ("yes",)) for i in range(pictures)]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose losses are those of `LOWS`."""

    def evaluate(engine: Any, job: Any, folder: Path) -> Any:
        return job.configs

    def rows(configs: Any) -> list[dict[str, Any]]:
        return [
            {
                "task": "t",
                "kept": 9.0,
                "accuracy": 0.9,
                "dense_difference": 0.0,
                "dense_low": LOWS.get(config.budget),
                "dense_high": 0.0,
            }
            for config in configs
        ]

    monkeypatch.setattr(tune, "evaluate", evaluate)
    monkeypatch.setattr(tune, "rows", rows)
    return SimpleNamespace(prepare=lambda *_: SimpleNamespace(spans=[SimpleNamespace(n=144)]))


def test_the_search_stops_behind_the_first_budget_that_may_lose_more(engine: Any, tmp_path: Path) -> None:
    tried = list(tune.tuned(engine, items(400), "divprune", BUDGETS, tmp_path, loss=0.02))
    assert [(each.budget, each.holds) for each in tried] == [("1/2", True), ("1/4", True), ("1/9", False)]
    wide = list(tune.tuned(engine, items(400), "divprune", BUDGETS, tmp_path, loss=0.03))
    assert [each.budget for each in wide if each.holds] == ["1/2", "1/4", "1/9", "1/18"]


def test_an_interval_is_no_narrower_than_so_many_pictures_show(engine: Any, tmp_path: Path) -> None:
    (first, *_) = tune.tuned(engine, items(200), "divprune", BUDGETS, tmp_path, loss=0.02)
    assert first.low == pytest.approx(-unseen_loss(200))
    assert first.high == pytest.approx(unseen_loss(200))


def test_too_few_pictures_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"20 pictures cannot show a loss below 16.8 points.*183 pictures or more"):
        next(tune.tuned(None, items(20), "divprune", BUDGETS, tmp_path, loss=0.02))  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [0.01, 0.02, 0.1, 0.5])
def test_so_many_pictures_are_just_enough(loss: float) -> None:
    assert unseen_loss(pictures_for(loss)) <= loss < unseen_loss(pictures_for(loss) - 1)
