"""Known shapes are as large as their models, memory is counted before it is taken, depth adds up. No clock."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import greedyprune as gp
from features_given import features_given
from greedyprune.bench import predict, prefill, shapes
from greedyprune.bench.calls import Unmeasurable
from greedyprune.cli.app import app
from greedyprune.verify.raw import from_config
from greedyprune.verify.traces import changed, fingerprint
from tiny import tiny

BILLIONS = {
    "llava-1.5-7b": 7.06,
    "llava-1.5-13b": 13.35,
    "llava-next-7b": 7.06,
    "qwen2.5-vl-3b": 3.75,
    "qwen2.5-vl-7b": 8.29,
    "qwen2.5-vl-32b": 33.45,
    "qwen3-vl-8b": 8.77,
    "internvl3-8b": 7.94,
}
"""Parameters of the published checkpoints."""
CLIP = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "num_attention_heads": 2, "image_size": 56}
PATCHES = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
TOWERS = {
    "llava": CLIP,
    "llava_next": CLIP,
    "qwen2_5_vl": {**PATCHES, "fullatt_block_indexes": [1]},
    "qwen3_vl": {**PATCHES, "deepstack_visual_indexes": [0, 1]},
    "internvl": {**CLIP, "image_size": [56, 56]},
}


@pytest.fixture(params=["llava-1.5-7b", "llava-next-7b", "qwen2.5-vl-7b", "qwen3-vl-8b", "internvl3-8b"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A shape, its widths divided until a test can build it."""
    shape = shapes.SHAPES[request.param]
    text = {"hidden_size": 64, "num_hidden_layers": 5, "intermediate_size": 96}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    if "rope_parameters" in shape.text:
        text["rope_parameters"] = {**shape.text["rope_parameters"], "mrope_section": [4, 2, 2]}
    more = {**shape.more}
    if "image_grid_pinpoints" in more:
        more["image_grid_pinpoints"] = [[56, 112], [112, 56], [112, 112]]
    small = replace(shape, text={**shape.text, **text}, vision={**shape.vision, **TOWERS[shape.model_type]}, more=more)
    monkeypatch.setitem(shapes.SHAPES, request.param, small)
    return request.param


@pytest.mark.parametrize("known", BILLIONS)
def test_a_shape_has_as_many_parameters_as_the_published_model(known: str) -> None:
    config = shapes.config_of(known)
    need = shapes.memory_of(config, torch.bfloat16, 1000)
    assert need.weights / 2e9 == pytest.approx(BILLIONS[known], rel=2e-3)
    few = shapes.config_of(known, 2).get_text_config()
    assert few.num_hidden_layers == 2
    assert few.hidden_size == config.get_text_config().hidden_size


def test_other_names_and_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="'llava-8b' is no shape that is known here: choose one of llava-small"):
        shapes.config_of("llava-8b")
    with pytest.raises(ValueError, match="has 32 decoder layers, so it cannot be cut to 33"):
        shapes.config_of("llava-1.5-7b", 33)


@features_given
def test_memory_is_what_is_taken_and_the_oracle_holds(name: str) -> None:
    config = shapes.config_of(name, 3)
    model = shapes.build(config, torch.device("cpu"), torch.float32)
    inputs = from_config(model, ((112, 112),), tried=False).prompt(((0,),))
    row = prefill.measure(model, inputs, gp.Policy(gp.Random(), gp.Ratio(0.5), "layer:1"), rounds=1)  # type: ignore[arg-type]
    need = shapes.memory_of(config, torch.float32, row.sequence)
    assert need.weights == sum(weight.nbytes for weight in model.parameters())
    assert need.cache == row.dense_cache_bytes
    assert row.equal
    assert row.layers == 3


@features_given
def test_the_command_builds_predicts_and_says_the_memory(name: str, tmp_path: Path) -> None:
    some = ["--layers", "3", "--rounds", "1", "--size", "112x112", "--at", "layer:1", "--keep", "50%"]
    told = CliRunner().invoke(app, ["bench", "prefill", "--config", name, "--predict", "--json", *some])
    assert told.exit_code == 0, told.output
    row = json.loads(told.stdout)
    assert (row["model"], row["layers"], row["predicted_layers"], row["predicted_run_layers"]) == (name, 3, 3, 2)
    assert "3 decoder layers needs about" in told.stderr


@features_given
def test_what_does_not_fit_is_refused_before_it_is_built_or_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    model = tiny("llava").model

    def counted(config: Any, *more: Any) -> Any:
        made.append(config.get_text_config().num_hidden_layers)
        return model

    need = shapes.memory_of(shapes.config_of("llava-1.5-7b", 3), torch.float32, 640).total
    monkeypatch.setattr(shapes, "free_memory", lambda device: need)
    monkeypatch.setattr(shapes, "build", counted)
    refused = CliRunner().invoke(app, ["bench", "prefill", "--config", "llava-1.5-7b"])
    assert refused.exit_code == 1
    assert "--config llava-1.5-7b with 32 decoder layers needs about 29.60 GB" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert made == []
    some = ["--rounds", "1", "--at", "layer:2", "--keep", "5", "--predict"]
    told = CliRunner().invoke(app, ["bench", "prefill", "--config", "llava-1.5-7b", *some])
    assert told.exit_code == 0, told.output
    assert made == [3]
    assert "of 32 layers were run" in told.stdout
    assert "error of the prediction" not in told.stdout


@features_given
def test_depth_adds_up() -> None:
    made = tiny("llava")
    row = prefill.measure(made.model, made.prompt(((0,),)), gp.Policy(gp.Random(), 5, "layer:1"), rounds=1)  # type: ignore[arg-type]
    row = replace(row, layers=4, dense_ms=40.0, pruned_ms=20.0, oracle_ms=16.0)
    found = predict.Prediction.of(row, 9.0, 3.0, 14)
    assert (found.dense_ms, found.pruned_ms, found.oracle_ms) == (130.0, 50.0, 46.0)
    assert found.speedup == pytest.approx(2.6)
    whole = replace(row, layers=14, dense_ms=100.0, pruned_ms=50.0, oracle_ms=92.0)
    assert found.errors(whole) == pytest.approx({"dense": 0.3, "pruned": 0.0, "oracle": -0.5})
    with pytest.raises(ValueError, match="a row of 4 layers says nothing about a prediction of 14"):
        found.errors(row)


@features_given
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_a_layer_alone_is_the_models_own_and_no_model_is_changed(family: str) -> None:
    made = tiny(family)
    before, inputs = fingerprint(made.model), made.prompt(((0,),))
    few = predict.shallow(made.model, 2)
    assert len(few.get_decoder().layers) == 2
    assert few.get_decoder().layers[1].mlp.up_proj.weight is made.model.get_decoder().layers[1].mlp.up_proj.weight
    seen: list[torch.Tensor] = []
    handle = few.get_decoder().layers[0].register_forward_hook(lambda layer, args, output: seen.append(output))
    hidden, rotary = predict._entering(few, inputs)
    for length in (hidden.shape[1], 7):
        alone = predict._alone(few.get_decoder(), hidden, rotary, length)()
        assert torch.allclose(alone, seen[0][:, :length], atol=1e-5)
    handle.remove()
    predict.predict(few, inputs, gp.Policy(gp.Random(), 5, "layer:1"), 9, rounds=1)  # type: ignore[arg-type]
    assert not changed(before, fingerprint(made.model))


@pytest.mark.parametrize(("at", "layers"), [("input", 1), ("layer:1", 2), ("layer:3", 4)])
def test_the_layers_that_run_reach_behind_the_cut(at: str, layers: int) -> None:
    assert predict.layers_to_run(gp.Policy(gp.Random(), 5, at), 32) == layers  # type: ignore[arg-type]


def test_layers_of_several_kinds_are_not_added_up() -> None:
    made = tiny("gemma3")
    with pytest.raises(Unmeasurable, match="cannot be predicted"):
        predict.predict(made.model, made.prompt(((0,),)), gp.Policy(gp.Random(), 5, "input"), 9, rounds=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["llava", "--config", "llava-small"], "name two models"),
        (["--layers", "3"], "--layers cuts the depth of --config"),
        (["--config", "gpt"], "'gpt' is no shape that is known here"),
        (["--config", "llava-small", "--dtype", "auto"], "--dtype 'auto' is no type of random weights"),
    ],
)
def test_errors_are_one_line(options: list[str], told: str) -> None:
    refused = CliRunner().invoke(app, ["bench", "prefill", *options])
    assert refused.exit_code != 0
    assert told in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
