"""What hooks do in a decode step: no tensor operation more where nothing is ragged, and the same logits. No clock."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import greedyprune as gp
from greedyprune.attach.hooks.decoder import DecoderHooks
from greedyprune.attach.hooks.outer import OuterHooks
from greedyprune.bench import hooks
from greedyprune.cli.app import app

MODEL = hooks.llava(64, 4)
BARE = hooks.same_weights(MODEL)
STAGES = [gp.Input(), gp.Layer(2), gp.Layer(2, early=True)]


def both(masked: bool, batch: int = 1) -> tuple[hooks.Side, hooks.Side]:
    """The step with hooks and the step without, each with a mask of padding or without."""
    made = hooks.sides(MODEL, BARE, batch)
    if not masked:
        for side in made:
            side.inputs.pop("attention_mask")
    return made


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no-mask"])
@pytest.mark.parametrize("at", STAGES, ids=str)
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_a_step_over_a_cache_without_padding_dispatches_nothing_more(at, masked, batch) -> None:
    with gp.prune(MODEL, gp.Random(), 36, at=at):
        ours, theirs = both(masked, batch)
        assert ours.cache.layers[-1].keys.shape == theirs.cache.layers[-1].keys.shape
        counted = hooks.operations(ours), hooks.operations(theirs)
        assert torch.equal(ours.step(), theirs.step())
    assert counted[0] <= counted[1] if masked else counted[0] == counted[1]


@pytest.mark.parametrize("at", STAGES, ids=str)
@torch.no_grad()
def test_hooks_of_such_a_step_dispatch_no_operation_but_one_look_at_the_mask(at, monkeypatch) -> None:
    inside: list[int] = []

    def counting(kind: type, name: str) -> None:
        own = getattr(kind, name)

        def watched(self, *args, **kwargs):
            with hooks.Operations() as counted:
                result = own(self, *args, **kwargs)
            inside.append(counted.count)
            return result

        monkeypatch.setattr(kind, name, watched)

    for name in ("_hold", "_enter", "_leave"):
        counting(OuterHooks, name)
    for name in ("_before", "_after", "_before_layer"):
        counting(DecoderHooks, name)
    for masked in (False, True):
        with gp.prune(MODEL, gp.Random(), 36, at=at):
            ours, _ = both(masked)
            inside.clear()
            ours.step()
        assert len(inside) >= 5
        assert sum(inside) == (3 if masked else 0)  # a slice, whether all of it is one, and the answer


@torch.no_grad()
def test_a_cut_before_the_decoder_puts_no_hooks_on_its_layers() -> None:
    def held() -> list[int]:
        return [len(layer._forward_pre_hooks) for layer in MODEL.get_decoder().layers]

    with gp.prune(MODEL, gp.Random(), 36, at=gp.Input()) as pruned:
        both(True)[0].step()
        assert held() == [0, 0, 0, 0]
        with pruned.using(at=gp.Layer(2)):
            both(True)[0].step()
        assert held() == [1, 1, 1, 1]
        both(True)[0].step()
        assert held() == [1, 1, 1, 1]
    assert held() == [0, 0, 0, 0]


@pytest.mark.parametrize("at", hooks.RAGGED, ids=str)
@torch.no_grad()
def test_a_ragged_batch_is_compared_with_a_step_that_masks_alike(at) -> None:
    with gp.prune(MODEL, gp.Random(), list(hooks.KEPT), at=at):
        ours, theirs = hooks.sides(MODEL, BARE, 2)
        assert not bool(theirs.inputs["attention_mask"].all())
        torch.testing.assert_close(ours.step(), theirs.step(), rtol=0, atol=1e-6)
        theirs.back()
        theirs.inputs["attention_mask"] = torch.ones_like(theirs.inputs["attention_mask"])
        ours.back()
        assert float((ours.step() - theirs.step()).abs().max()) > 1e-4


@pytest.mark.parametrize("at", STAGES, ids=str)
@torch.no_grad()
def test_padding_behind_the_prompt_still_counts(at) -> None:
    with gp.prune(MODEL, gp.Random(), 36, at=at):
        ours, theirs = both(True)
        for side in (ours, theirs):  # the token after the prompt is padding for the one that follows
            side.step()
            mask = side.inputs["attention_mask"]
            side.inputs["attention_mask"] = torch.cat([mask[:, :-1], torch.zeros_like(mask[:, :1]), mask[:, -1:]], 1)
            side.inputs["position_ids"] = side.inputs["position_ids"] + 1
        if isinstance(at, gp.Layer) and not at.early:  # a stock model cannot mask caches of different lengths
            hidden = ours.step()
            ours.back()
            ours.inputs["attention_mask"] = torch.ones_like(ours.inputs["attention_mask"])
            assert float((hidden - ours.step()).abs().max()) > 1e-4
            return
        torch.testing.assert_close(ours.step(), theirs.step(), rtol=0, atol=1e-6)


def test_sizes_are_those_of_the_bundled_model_and_of_ten_times_as_many_parameters() -> None:
    bundled, *larger = [hooks.llava(width, layers) for width, layers in hooks.SIZES]
    stored = json.loads((Path(gp.__file__).parent / "testbed" / "llava_scenes" / "config.json").read_text())
    assert bundled.config.get_text_config().num_hidden_layers == stored["text_config"]["num_hidden_layers"]
    assert bundled.config.get_text_config().hidden_size == stored["text_config"]["hidden_size"]
    one, *rest = [sum(weight.numel() for weight in model.parameters()) for model in (bundled, *larger)]
    assert all(9.5 < each / one < 10.5 for each in rest)


def test_rows_say_what_was_measured_and_threads_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(hooks, "SIZES", ((64, 3),))
    out = tmp_path / "hooks.csv"
    told = CliRunner().invoke(app, ["bench", "hooks", "--pairs", "3", "--save", str(out), "--json"])
    assert told.exit_code == 0, told.output
    rows = json.loads(told.stdout)
    counts = hooks.usual_threads()
    assert [(row["stage"], row["ragged"]) for row in rows[:: len(counts)]] == [
        *((str(at), False) for at in hooks.STAGES),
        *((str(at), True) for at in hooks.RAGGED),
    ]
    for row in rows:
        assert row["error"] < 1e-5
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["ragged"] or row["hooked_operations"] <= row["bare_operations"]
    with out.open(newline="") as file:
        assert [row["stage"] for row in csv.DictReader(file)] == [row["stage"] for row in rows]
    assert torch.get_num_threads() == threads
    shown = CliRunner().invoke(app, ["bench", "hooks", "--pairs", "1"])
    assert shown.exit_code == 0, shown.output
    assert "layer:2" in shown.stdout
