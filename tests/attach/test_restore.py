"""`restore` adds to the scores of kept tokens what RESTORE says. The reference masks dropped tokens, in plain loops."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import greedyprune as gp
from breadth import some
from greedyprune.probes.decoder import rotary_decay
from proofs import CASES, dropped_columns, forward, hooked, keep_of
from tiny import IMAGE, tiny

pytestmark = pytest.mark.usefixtures("untouched")
RAGGED = next(case for case in CASES if str(case) == "ragged")
PLACES = (gp.Input(), gp.Layer(2))
BOTH = ("size", "distance", "both")


def added(model: Any, inputs: dict[str, Tensor], handle: gp.Pruned, how: str) -> Tensor:
    """What the equation adds for every query and key of the unpruned prompt. -> (b, 1, L, L)"""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    thetas = model.get_decoder().rotary_emb.inv_freq.double()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    found = torch.zeros(*ids.shape, ids.shape[1], dtype=torch.float64)
    images = iter((ids == IMAGE).nonzero().split([s.n for s in handle.selections]))
    for selection, places in zip(handle.selections, images, strict=True):
        row = int(places[0, 0])
        for column in places[selection.rows, 1].tolist():
            apart = (positions[row] - positions[row, column]).double()
            decay = (apart[:, None] * thetas).cos().mean(1)
            if selection.k < selection.n:
                size = selection.n / selection.k if how != "distance" else 1.0
                found[row, :, column] = math.log(size) + ((2 - decay).log() if how != "size" else 0.0)
    return found[:, None]


def reference(family: str, inputs: dict[str, Tensor], handle: gp.Pruned, how: str, at: gp.Stage) -> Tensor:
    """The last logits of an unpruned model with eager attention that does not see dropped tokens. -> (b, v)"""
    model = tiny(family, "eager").model
    gone = dropped_columns(inputs["input_ids"], handle.selections)[:, None, None]
    more = added(model, inputs, handle, how)

    def hide(layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs["attention_mask"]
        mask = torch.where(gone | (mask < -1), torch.finfo(mask.dtype).min, mask + more.to(mask.dtype))
        return args, {**kwargs, "attention_mask": mask}

    start = at.index if isinstance(at, gp.Layer) else 0
    layers = list(model.get_decoder().layers)[start:]
    with hooked(*(layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in layers)):
        return forward(model, inputs, use_cache=False).logits[:, -1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("at", PLACES, ids=str)
@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("case", some([CASES[0], RAGGED], CASES[0], RAGGED), ids=str)
def test_kept_tokens_get_what_the_equation_says(attention, at, how, case) -> None:
    made, inputs = tiny("llava", attention), tiny("llava").prompt(case.rows)
    with gp.prune(made.model, "divprune", keep_of(case), at=at, restore=how) as handle:
        logits = forward(made.model, inputs).logits[:, -1]
    expected = reference("llava", inputs, handle, how, at)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    with gp.prune(made.model, "divprune", keep_of(case), at=at):
        assert (forward(made.model, inputs).logits[:, -1] - logits).abs().max() > 1e-4


@pytest.mark.parametrize("family", some(["qwen2_vl", "qwen2_5_vl", "gemma3", "qwen3_vl"], "qwen2_vl", "gemma3"))
@pytest.mark.parametrize("at", PLACES, ids=str)
def test_other_positions_and_windows(family, at) -> None:
    made, inputs = tiny(family), tiny(family).prompt(CASES[0].rows)
    with gp.prune(made.model, "divprune", 4, at=at) as handle:
        plain = forward(made.model, inputs).logits[:, -1]
        with handle.using(restore="size"):
            sized = forward(made.model, inputs).logits[:, -1]
        with handle.using(restore="both"):
            both = forward(made.model, inputs).logits[:, -1]
            made.model.generate(**inputs, max_new_tokens=3)
    assert both.isfinite().all()
    assert (plain - sized).abs().max() > 1e-5
    assert (sized - both).abs().max() > 1e-5


def test_an_image_that_stays_whole_gets_nothing() -> None:
    made, inputs = tiny("llava"), tiny("llava").prompt(RAGGED.rows)
    valid = inputs["attention_mask"].bool()
    expected = forward(made.model, inputs).logits[valid]
    for at in PLACES:
        with gp.prune(made.model, "divprune", gp.Ratio(1.0), at=at, restore="both"):
            torch.testing.assert_close(forward(made.model, inputs).logits[valid], expected, rtol=1e-5, atol=1e-5)


def test_a_merged_token_counts_as_many_as_it_holds() -> None:
    made, inputs = tiny("llava"), tiny("llava").prompt(((0,),))
    seen: list[Tensor] = []
    layer = made.model.get_decoder().layers[2]
    note = partial(lambda module, args, kwargs: seen.append(kwargs["attention_mask"]))
    with (
        gp.prune(made.model, "tome", 4, at=gp.Layer(2), restore="size") as handle,
        hooked(layer.self_attn.register_forward_pre_hook(note, with_kwargs=True)),
    ):
        forward(made.model, inputs)
    weights = handle.selections[0].keep.weights
    assert weights is not None
    held = (weights > 0).sum(1).double()
    last = seen[0][0, 0, -1].double().exp()
    assert sorted(last[last > 1.5].round().tolist()) == sorted(held[held > 1].tolist())


def test_the_decay_is_the_mean_cosine_of_the_angles_on_every_axis() -> None:
    model = tiny("qwen2_vl").model
    attention, rotary = model.get_decoder().layers[0].self_attn, model.get_decoder().rotary_emb
    positions = torch.randint(0, 40, (3, 1, 7), generator=torch.Generator().manual_seed(1))
    cos, sin = rotary(torch.zeros(1), positions)
    found = rotary_decay(attention, cos, sin)
    sections = attention.config.rope_parameters["mrope_section"]
    axes = [axis for axis, size in enumerate(sections) for _ in range(size)]
    for m in range(7):
        for n in range(7):
            angles = [
                float(positions[axis, 0, m] - positions[axis, 0, n]) * float(theta)
                for axis, theta in zip(axes, rotary.inv_freq, strict=True)
            ]
            assert float(found[0, m, n]) == pytest.approx(sum(map(math.cos, angles)) / len(angles), abs=1e-5)


def test_what_cannot_be_restored_is_refused_before_anything_runs() -> None:
    model, inputs = tiny("llava").model, tiny("llava").prompt(((0,),))
    with pytest.raises(ValueError, match="restore='all' is unknown: choose one of none, size, distance, both"):
        gp.prune(model, "divprune", 4, restore="all")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"restore='both' makes up .* positions='compact' are others: .*restore=\"size\""
    ):
        gp.prune(model, "divprune", 4, positions="compact", restore="both")
    config = model.get_decoder().config
    before = config._attn_implementation
    wrong = r"restore='size' adds to attention scores, and the kernel of attention 'flash_attention_2' takes no"
    try:
        with gp.prune(model, "divprune", 4, restore="size"):
            config._attn_implementation_internal = "flash_attention_2"
            with pytest.raises((ValueError, ImportError), match=wrong) as told:  # the kernel itself is not installed
                forward(model, inputs)
        assert told.type is ValueError
        with pytest.raises(ValueError, match=wrong):
            gp.prune(model, "divprune", 4, restore="size")
    finally:
        config._attn_implementation_internal = before


def test_a_policy_says_it_only_if_it_restores() -> None:
    plain, both = gp.Policy("divprune", 64), gp.Policy("divprune", 64, restore="both")
    assert "restore" not in plain.to_dict()
    assert gp.Policy.from_dict(both.to_dict()) == both
    assert gp.Policy.from_dict(plain.to_dict()) == plain
    assert plain.to_bytes() != both.to_bytes()
    model = tiny("llava").model
    with gp.prune(model, both) as pruned:
        assert pruned.request(keep=3).policy.restore == "both"
        assert pruned.request(restore="none").policy.restore == "none"
