"""The benchmark measures what it says: the same work, the same answer, the regimes by name. No clock is looked at."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import greedyprune as gp
from greedyprune.bench import select
from greedyprune.bench.features import image_like
from greedyprune.bench.rows import write
from greedyprune.bench.select import REGIMES, measure, threshold_of, usual_loop


@pytest.mark.parametrize("regime", REGIMES)
def test_both_sides_return_the_same_tokens_in_the_regime_named(regime: str) -> None:
    n, k = 576, 64
    x, t = image_like(n, 128, seed=2)  # no pair so near tau that float32 errs
    tau, visited = threshold_of(x, t, k, regime)
    keep = gp.select(gp.GreedyPrune(tau=tau), gp.Cues(x, text=t[None]), k)
    assert keep.order.tolist() == usual_loop(x, t, tau, k)
    own = int(keep.before_fallback)
    if regime == "refill":
        assert 0.6 * k <= own <= 0.7 * k
        assert visited == n
    else:
        assert own == k
        low, high = {"loose": (k, 1.25 * k), "bind": (0.4 * n, 0.6 * n)}[regime]
        assert low <= visited <= high


def test_features_are_as_alike_as_those_of_images() -> None:
    x, _ = image_like(576, 1024, seed=0)
    unit = torch.nn.functional.normalize(x, dim=1)
    cosines = unit @ unit.T
    pairs = cosines[torch.ones(576, 576).triu(1).bool()]
    neighbours = cosines[torch.arange(575), torch.arange(1, 576)]
    assert 0.2 < float(pairs.median()) < 0.4
    assert 0.8 < float(neighbours.median()) < 0.95
    with pytest.raises(ValueError, match="n=600: image-like features need"):
        image_like(600, 8)


def test_rows_carry_where_they_come_from(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    rows = list(measure(((144, 16, 64),), runs=1))
    assert torch.get_num_threads() == threads
    assert [row.regime for row in rows] == list(REGIMES)
    assert all(row.exact and row.ratio > 0 for row in rows)
    file = tmp_path / "new" / "select.csv"
    write(file, [row.to_dict() for row in rows])
    with file.open() as opened:
        read = list(csv.DictReader(opened))
    assert len(read) == 3
    assert read[0]["regime"] == "loose"
    assert all(read[0][name] for name in ("date", "cpu", "python", "torch", "greedyprune", "command"))


def test_the_command_prints_and_saves_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    testing = pytest.importorskip("typer.testing")
    from greedyprune.cli.app import app

    monkeypatch.setattr(select, "SIZES", ((144, 16, 64),))
    runner = testing.CliRunner()
    file = tmp_path / "select.csv"
    shown = runner.invoke(app, ["bench", "select", "--runs", "1", "--save", str(file)])
    assert shown.exit_code == 0, shown.output
    assert all(regime in shown.stdout for regime in REGIMES)
    assert len(file.read_text().splitlines()) == 4
    plain = runner.invoke(app, ["bench", "select", "--runs", "1", "--json"])
    assert [row["tokens"] for row in json.loads(plain.stdout)] == [144, 144, 144]
    refused = runner.invoke(app, ["bench", "select", "--save", str(tmp_path)])
    assert refused.exit_code == 1
    assert "is a folder" in refused.stderr
