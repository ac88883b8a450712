"""The benchmark measures what it says: the same work, the same answer, the regimes by name. No clock is looked at."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import greedyprune as gp
from greedyprune.bench import growth, select
from greedyprune.bench.features import image_like
from greedyprune.bench.rows import write
from greedyprune.bench.select import REGIMES, measure, soft_loop, threshold_of, usual_loop

CASES = [("soft_greedyprune", "own"), ("greedyprune", "own"), *(("greedyprune", regime) for regime in REGIMES)]


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


@pytest.mark.parametrize("seed", range(3))
def test_the_default_rule_written_plainly_takes_the_same_tokens(seed: int) -> None:
    x, t = image_like(576, 96, seed)
    keep = gp.select(gp.SoftGreedyPrune(), gp.Cues(x, text=t[None], question=slice(0, 1)), 64)
    assert keep.order.tolist() == soft_loop(x.double(), t.double(), 8.0, 64)


def test_without_the_loop_time_and_memory_are_measured_alone() -> None:
    rows = list(measure((), alone=((144, 16, 64),)))
    assert [(row.method, row.regime) for row in rows] == CASES[:2]
    assert all(row.usual_ms is None and row.ratio is None and row.equal is None for row in rows)
    assert all(row.greedyprune_ms > 0 and row.peak_bytes > 0 for row in rows)


def test_growth_measures_every_method_at_every_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    testing = pytest.importorskip("typer.testing")
    from greedyprune.cli.app import app

    monkeypatch.setattr(growth, "QUICK", (144, 576))
    file = tmp_path / "growth.csv"
    shown = testing.CliRunner().invoke(
        app, ["bench", "growth", "--quick", "--width", "32", "--runs", "1", "--save", str(file)]
    )
    assert shown.exit_code == 0, shown.output
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert [(row["method"], row["tokens"], row["kept"]) for row in rows] == [
        (name, n, k) for n, k in (("144", "16"), ("576", "64")) for name in growth.METHODS
    ]


def test_rows_carry_where_they_come_from(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    rows = list(measure(((144, 16, 64),), runs=1))
    assert torch.get_num_threads() == threads
    assert [(row.method, row.regime) for row in rows] == CASES
    assert all(row.exact and row.ratio > 0 for row in rows)
    assert [row.of_floor is not None for row in rows] == [False, False, True, True, True]
    assert all(row.peak_of_input == round(row.peak_bytes / (144 * 64 * 4), 2) for row in rows)
    file = tmp_path / "new" / "select.csv"
    write(file, [row.to_dict() for row in rows])
    with file.open() as opened:
        read = list(csv.DictReader(opened))
    assert len(read) == 5
    assert read[2]["regime"] == "loose"
    assert all(read[0][name] for name in ("date", "cpu", "python", "torch", "greedyprune", "command"))


def test_the_command_prints_and_saves_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    testing = pytest.importorskip("typer.testing")
    from greedyprune.cli.app import app

    monkeypatch.setattr(select, "SIZES", ((144, 16, 64),))
    monkeypatch.setattr(select, "ALONE", ((576, 64, 32),))
    runner = testing.CliRunner()
    file = tmp_path / "select.csv"
    shown = runner.invoke(app, ["bench", "select", "--runs", "1", "--save", str(file)])
    assert shown.exit_code == 0, shown.output
    assert all(regime in shown.stdout for regime in REGIMES)
    assert len(file.read_text().splitlines()) == 8
    plain = runner.invoke(app, ["bench", "select", "--runs", "1", "--quick", "--json"])
    assert [row["tokens"] for row in json.loads(plain.stdout)] == [144] * 5
    refused = runner.invoke(app, ["bench", "select", "--save", str(tmp_path)])
    assert refused.exit_code == 1
    assert "is a folder" in refused.stderr
