"""Whole answers and sweeps: the pruned model says what the oracle says, at every budget. No clock is looked at."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import greedyprune as gp
from features_given import features_given
from greedyprune.bench import generate, trio
from greedyprune.cli.app import app
from tiny import tiny


@features_given
@pytest.mark.parametrize("at", ["input", "layer:2"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_vl", "llava_next"])
def test_the_pruned_model_says_what_the_oracle_says(family: str, at: str) -> None:
    made = tiny(family)
    policy = gp.Policy(gp.Random(), 5, at)  # type: ignore[arg-type]
    row = generate.measure(made.model, made.prompt(((0,),) * 2), policy, generated=6, rounds=1)
    assert row.equal
    assert (row.generated, row.batch, row.kept, row.rounds) == (6, 2, 5, 1)


@features_given
@torch.no_grad()
def test_the_dense_answer_is_that_of_generate() -> None:
    made = tiny("llava")
    inputs = made.prompt(((0,),))
    expected = made.model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    with trio.trio(made.model, inputs, gp.Policy(gp.Random(), 5, gp.Layer(1))) as three:
        assert three.calls["dense"].answer(6).tolist() == expected.tolist()
        pruned = made.model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        assert three.calls["pruned"].answer(6).tolist() == pruned.tolist()


@features_given
def test_the_commands_print_and_save(tmp_path: Path) -> None:
    some = ["--rounds", "1", "--at", "input", "--method", "random"]
    told = CliRunner().invoke(app, ["bench", "generate", "--max-new-tokens", "3", *some])
    assert told.exit_code == 0, told.output
    assert "the same tokens as the oracle" in told.stdout
    out = tmp_path / "sweep.csv"
    told = CliRunner().invoke(app, ["bench", "sweep", "--keep", "16,25%", "--save", str(out), *some])
    assert told.exit_code == 0, told.output
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kept"], row["equal"]) for row in rows] == [("16", "True"), ("36", "True")]
    plain = CliRunner().invoke(app, ["bench", "sweep", "qwen", "--keep", "16", "--json", *some])
    assert [row["kept"] for row in json.loads(plain.stdout)] == [16]
    refused = CliRunner().invoke(app, ["bench", "sweep", "--keep", "16,", *some])
    assert refused.exit_code == 2
    assert "--keep" in refused.stderr
