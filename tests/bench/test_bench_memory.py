"""Peak memory is that of what was allocated, and the share of the hooks that of the calls. No clock is looked at."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import greedyprune as gp
from features_given import features_given
from greedyprune.bench import memory, share
from greedyprune.bench.peak import peak_of
from greedyprune.cli.app import app
from tiny import tiny

CPU = torch.device("cpu")


def test_a_peak_counts_what_lives_at_a_time_inside_operations_too(capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.ones(1000)

    def work() -> torch.Tensor:
        first = torch.empty(1000)  # 4,000 bytes
        second = torch.empty(500)  # 2,000 more: 6,000
        del first
        return torch.cat([before, second])  # 6,000 beside 2,000

    result, peak = peak_of(work, CPU)
    assert result.shape == (1500,)
    assert peak == 8000
    assert peak_of(lambda: before.add_(1), CPU)[1] < 100  # a number at most
    rows = torch.randn(1, 4, 256, 64)
    _, peak = peak_of(lambda: torch.nn.functional.scaled_dot_product_attention(rows, rows, rows), CPU)
    assert peak > rows.nbytes  # its result, and what it needs inside
    assert capfd.readouterr().err == ""


def test_standard_error_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        peak_of(work, CPU)
    print("heard", file=sys.stderr)  # noqa: T201
    assert capfd.readouterr().err == "heard\n"


@features_given
@pytest.mark.parametrize("at", ["input", "layer:2"])
@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_the_memory_of_a_prefill_is_that_of_its_caches_and_more(family: str, at: str) -> None:
    made = tiny(family)
    row = memory.measure(made.model, made.prompt(((0,),) * 2), gp.Policy(gp.Random(), 5, at))  # type: ignore[arg-type]
    assert row.pruned_cache_bytes == row.oracle_cache_bytes < row.dense_cache_bytes
    for side in ("dense", "pruned", "oracle"):
        assert getattr(row, f"{side}_peak_bytes") > getattr(row, f"{side}_cache_bytes")
    assert row.oracle_peak_bytes <= row.pruned_peak_bytes
    width = made.model.get_input_embeddings().weight.shape[1]
    assert row.embeddings_bytes == 2 * row.sequence * width * 4
    assert row.within_bound == (row.pruned_peak_bytes <= row.oracle_peak_bytes + row.embeddings_bytes)
    assert row.weights_bytes == sum(weight.nbytes for weight in made.model.parameters())
    assert row.equal


@features_given
def test_the_command_prints_and_saves_it(tmp_path: Path) -> None:
    out = tmp_path / "memory.csv"
    told = CliRunner().invoke(app, ["bench", "memory", "--keep", "36", "--at", "input", "--save", str(out)])
    assert told.exit_code == 0, told.output
    for word in ("dense", "pruned", "oracle", "KV cache", "memory: ", "above the weights (12.2 MB)"):
        assert word in told.stdout
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["kept"], row["equal"], row["model"]) == ("36", "True", "bundled")
    refused = CliRunner().invoke(app, ["bench", "memory", "--rounds", "3"])
    assert refused.exit_code == 2


@features_given
def test_shares_are_measured_for_every_method_place_and_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = tiny("llava")
    seen: list[Any] = []
    own = share.with_rows

    def noted(encoded: Any, seed: int) -> Any:
        seen.append((encoded, own(encoded, seed)))
        return seen[-1][1]

    monkeypatch.setattr(share, "build", lambda *given: made.model)
    monkeypatch.setattr(share, "with_rows", noted)
    monkeypatch.setattr(share, "SHAPES", (share.Shape("llava-small", 336, (3, 5), (1, 2)),))
    out = tmp_path / "share.csv"
    told = CliRunner().invoke(app, ["bench", "share", "--rounds", "1", "--batch", "2", "--save", str(out)])
    assert told.exit_code == 0, told.output
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["batch"], row["at"], row["kept"]) for row in rows] == [
        ("2", at, keep) for _ in share.METHODS for at in share.PLACES for keep in ("3", "5")
    ]
    for row in rows:
        assert row["equal"] == "True"
        assert row["pruned_cache_bytes"] == row["oracle_cache_bytes"]
        assert 0 < float(row["hooks_of_pruned"]) < 1
        assert float(row["select_ms"]) <= float(row["hooks_ms"]) <= float(row["pruned_ms"])
    encoded, replaced = seen[0]
    assert [x.shape for x in replaced.pooler_output] == [x.shape for x in encoded.pooler_output]
    assert not torch.equal(replaced.pooler_output[0], encoded.pooler_output[0])
    assert not torch.equal(replaced.pooler_output[0], replaced.pooler_output[1])
