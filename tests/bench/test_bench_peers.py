"""The peers' benchmark: published formulations written afresh keep the same tokens as the engines. No clock is read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import greedyprune as gp
from greedyprune.bench import peers
from greedyprune.bench.features import image_like
from greedyprune.cli.app import app


@pytest.mark.parametrize("k", [1, 16, 60])
def test_both_formulations_keep_the_same_tokens(k: int) -> None:
    x, t = image_like(576, 96, seed=1)
    relevance = torch.rand(576, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.05
    relevance[[3, 7]] = torch.tensor([0.0, 1.0])  # the scale of min-max, so that both sides have the same quality
    cues = gp.Cues(x, text=t[None], relevance=relevance)
    assert set(gp.select("divprune", cues, k).rows.tolist()) == set(peers.max_min(x.double(), k))
    expected = peers.determinant(x.double(), relevance.double(), k)
    assert set(gp.select("cdpruner", cues, k).rows.tolist()) == set(expected)


def test_rows_say_what_was_measured_and_threads_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(peers, "SIZES", ((144, 16, 64),))
    out = tmp_path / "peers.csv"
    told = CliRunner().invoke(app, ["bench", "peers", "--runs", "1", "--save", str(out), "--json"])
    assert told.exit_code == 0, told.output
    rows = json.loads(told.stdout)
    assert [(row["method"], row["tokens"], row["kept"], row["exact"]) for row in rows] == [
        ("divprune", 144, 16, True),
        ("cdpruner", 144, 16, True),
    ]
    with out.open(newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["divprune", "cdpruner"]
    assert torch.get_num_threads() == threads
    refused = CliRunner().invoke(app, ["bench", "peers", "--save", str(tmp_path)])
    assert refused.exit_code != 0
