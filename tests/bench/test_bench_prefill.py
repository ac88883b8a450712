"""Three prefills do what their names say: same tokens, same logits bit for bit, same cache. No clock is looked at."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import greedyprune as gp
from features_given import features_given
from greedyprune.bench import calls, oracle, prefill, trio
from greedyprune.bench.calls import Unmeasurable
from greedyprune.cli import _show
from greedyprune.cli.app import app
from greedyprune.models._front import own_hooks
from greedyprune.verify.traces import changed, fingerprint, hooks_on
from tiny import tiny

FAMILIES = ["llava", "qwen2_5_vl", "qwen3_vl", "internvl", "llava_next"]
"""A plain one, positions on a grid, features that early layers add, another decoder, newlines between rows."""
PLACES = ["input", "layer:1", "layer:2"]


def measured(family: str, method: Any, at: str, batch: int = 1, images: int = 1, keep: Any = 5) -> prefill.Row:
    """A row of a tiny model, of two rounds."""
    made = tiny(family)
    inputs = made.prompt((tuple([0] * images),) * batch)
    return prefill.measure(made.model, inputs, gp.Policy(method, keep, at), rounds=2)  # type: ignore[arg-type]


@features_given
@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_prefill_is_the_oracles_computation(family: str, at: str) -> None:
    for batch, images in ((1, 2), (2, 1)):
        row = measured(family, gp.Random(), at, batch, images)
        assert row.equal
        assert row.error == 0.0
        assert row.pruned_cache_bytes == row.oracle_cache_bytes < row.dense_cache_bytes
        assert (row.batch, row.images, row.kept) == (batch, images, 5 * images)
        structure = row.tokens - row.kept - (row.sequence - row.sequence_kept)
        assert structure == 0 if family != "llava_next" else structure <= 0  # newlines go with their rows
        assert row.rounds == 2
        assert row.speedup_low <= row.speedup <= row.speedup_high
        assert row.flops_ratio > 1


@features_given
@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_an_oracle_of_other_tokens_answers_otherwise(family: str, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = trio._cut

    def other(output: Any) -> Any:
        cut = own(output)
        dropped = next(c for c in range(cut.length) if c not in cut.columns[0])
        kept = next(i for i, c in enumerate(cut.columns[0]) if c + 1 == dropped or c - 1 == dropped)
        columns = cut.columns.clone()
        columns[0, kept] = dropped
        return replace(cut, columns=columns.sort(1).values)

    monkeypatch.setattr(trio, "_cut", other)
    row = measured(family, gp.Random(), at)
    assert not row.equal
    assert row.error > 1e-3


@features_given
def test_a_method_that_merges_is_told_from_its_oracle() -> None:
    row = measured("llava", "tome", "input")
    assert not row.equal
    assert row.pruned_cache_bytes == row.oracle_cache_bytes


@features_given
@pytest.mark.parametrize("method", ["soft_greedyprune", "visionzip", "fastv"])
def test_methods_may_look_into_tower_and_decoder(method: str) -> None:
    row = measured("llava", method, "layer:2")
    assert row.kept == 5
    assert row.select_ms > 0
    assert row.hooks_ms > 0


@features_given
def test_nothing_is_left_on_the_model() -> None:
    model = tiny("qwen3_vl").model
    before = fingerprint(model)
    measured("qwen3_vl", gp.Random(), "layer:1")
    assert not changed(before, fingerprint(model))
    assert not hooks_on(model)


@features_given
@torch.no_grad()
def test_every_hook_is_watched() -> None:
    made = tiny("llava")
    with trio.trio(made.model, made.prompt(((0,),)), gp.Policy(gp.Random(), 5, gp.Layer(1))):
        names = [hooks[key].__qualname__ for hooks, key in own_hooks(made.model)]
        assert len(names) >= 4 + len(made.model.get_decoder().layers)
        assert {name.split(".")[0] for name in names} == {"HookClock"}


@features_given
@pytest.mark.parametrize(
    ("family", "method", "keep", "at", "told"),
    [
        ("llava", "pyramiddrop", 5, "layers:1,2", "cuts several times"),
        ("llava", gp.Random(), 5, "layer:1:early", "measure layer:1"),
        ("llava", gp.Random(), [5, 7], "input", "different numbers of tokens"),
        ("llava", gp.Random(), gp.Ratio(1.0), "input", "lower --keep"),
        ("gemma3", gp.Random(), 5, "layer:1", "Measure it at input"),
    ],
)
def test_what_has_no_oracle_is_said(family: str, method: Any, keep: Any, at: str, told: str) -> None:
    with pytest.raises(Unmeasurable, match=told):
        measured(family, method, at, batch=2, keep=keep)


@features_given
def test_a_loop_that_is_not_the_model_is_no_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    own = oracle.Loop.__call__

    def scaled(self: Any, **given: Any) -> Any:
        return own(self, **{**given, "inputs_embeds": 1.5 * given["inputs_embeds"]})

    monkeypatch.setattr(oracle.Loop, "__call__", scaled)
    with pytest.raises(Unmeasurable, match="a 'llava' model has no oracle at layer:1: with all tokens"):
        measured("llava", gp.Random(), "layer:1")


def test_a_release_that_takes_no_features_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FEATURES", "features_of_tomorrow")
    with pytest.raises(Unmeasurable, match="takes no vision features"):
        measured("llava", gp.Random(), "input")


@features_given
def test_the_end_speaks_of_the_whole_run() -> None:
    row = replace(
        measured("llava", gp.Random(), "input"),
        vision_ms=10.0,
        dense_ms=60.0,
        pruned_ms=20.0,
        dense_step_ms=3.0,
        pruned_step_ms=2.0,
    )
    part, expected = prefill.whole(row, 11)
    assert part == pytest.approx(0.6)
    assert expected == pytest.approx(2.0)
    assert prefill.whole(row, 1) == pytest.approx((6 / 7, 7 / 3))


@features_given
def test_the_command_tells_the_whole_story_and_saves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_show, "WIDTH", 80)
    out = tmp_path / "new" / "prefill.csv"
    told = CliRunner().invoke(app, ["bench", "prefill", "--rounds", "1", "--keep", "36", "--save", str(out)])
    assert told.exit_code == 0, told.output
    for word in (
        "dense",
        "pruned",
        "oracle",
        "bit for bit",
        "our hooks",
        "choosing",
        "vision tower",
        "expect",
    ):
        assert word in told.stdout
    assert "KV cache   peak memory" in told.stdout
    assert len(told.stdout.splitlines()) <= 24
    assert max(map(len, told.stdout.splitlines())) <= 80
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["kept"], row["equal"], row["model"]) == ("36", "True", "bundled")
    assert row["command"]
    plain = CliRunner().invoke(app, ["bench", "prefill", "qwen", "--rounds", "1", "--batch", "2", "--json"])
    assert plain.exit_code == 0, plain.output
    assert json.loads(plain.stdout)["batch"] == 2


@features_given
@pytest.mark.parametrize("keep", ["36", "25%", "1/4", "total:36", "27 per layer"])
def test_budgets_are_the_texts_of_all_commands(keep: str) -> None:
    options = ["--rounds", "1", "--at", "input", "--method", "random", "--json"]
    told = CliRunner().invoke(app, ["bench", "prefill", "--keep", keep, *options])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["kept"] == (27 if "per layer" in keep else 36)


@features_given
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--device", "meta"], "--device 'meta': time is measured on cpu and cuda."),
        (["--size", "large"], "--size 'large': write width and height"),
        (["--device", "cuda"], "--device 'cuda'"),
        (["--keep", "all"], "--keep"),
        (["--keep", "layer:2 50%, layer:4 25%"], "cuts several times"),
        (["--at", "input", "--method", "fastv"], "--at: FastV cannot run at Input()"),
        (["--at", "layer:2:early", "--rounds", "1"], "measure layer:2."),
        (["/no/such/folder"], "there is no such folder"),
    ],
)
def test_errors_are_one_line(options: list[str], told: str) -> None:
    refused = CliRunner().invoke(app, ["bench", "prefill", *options])
    assert refused.exit_code != 0
    assert told in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
