"""Faults that users of neighbouring libraries reported: models inside of others, handles that are lost or shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import greedyprune as gp
import proofs
from breadth import some
from field import cuts, orders
from greedyprune.verify.traces import changed
from proofs import (
    EARLY,
    GRID,
    MADE,
    MODEL,
    ONE,
    assert_near,
    forward,
    generate,
    near,
    same,
)
from tiny import Tiny, fresh

pytestmark = pytest.mark.usefixtures("untouched")


# Guards hang on the module that runs ----------------------------------------------------------------------------------


class Adapter(nn.Module):
    """What an adapter library puts around a model: two modules, whose `generate` calls the model's own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.add_module("model", model)
        self.config, self.generation_config = model.config, model.generation_config

    @property
    def inside(self) -> Any:
        return self.base_model.model

    def get_decoder(self) -> Any:
        return self.inside.get_decoder()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inside(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self.inside.generate(*args, **kwargs)


def repeating(made: Tiny) -> dict[str, Tensor]:
    """A prompt whose last two words stand behind the image already, so that there are guesses at once."""
    inputs = made.prompt(((0,),))
    ids = inputs["input_ids"].clone()
    ids[0, -2:] = ids[0, -9:-7]
    return {**inputs, "input_ids": ids}


@pytest.mark.parametrize("held", ["adapter", "model"])
def test_a_forward_of_an_adapter_is_pruned_whatever_is_held(held: str) -> None:
    made = fresh("llava")
    adapter = Adapter(made.model)
    with gp.prune(adapter if held == "adapter" else made.model, GRID, 5) as handle:
        near(adapter(**ONE).logits, made.model(**ONE).logits)
        assert [s.k for s in handle.selections] == [5]


@cuts
@pytest.mark.parametrize("held", ["adapter", "model"])
@pytest.mark.parametrize("family", some(["llava", "qwen2_5_vl"], "llava"))
def test_guesses_are_no_question_whatever_is_pruned_of_an_adapter(family: str, held: str, at: gp.Stage) -> None:
    made = fresh(family)
    adapter, inputs = Adapter(made.model), repeating(made)
    with gp.prune(adapter if held == "adapter" else made.model, gp.GreedyPrune(), 5, at=at) as handle:
        plain, kept = generate(adapter, inputs), orders(handle)
        assert_near(generate(adapter, inputs, prompt_lookup_num_tokens=3), plain)
        assert orders(handle) == kept
    assert "generate" not in vars(made.model)
    assert "generate" not in vars(adapter)


@pytest.mark.parametrize("held", ["adapter", "model"])
@pytest.mark.parametrize("option", ["labels", "logits_to_keep"])
@pytest.mark.parametrize("called", ["adapter", "model", "positional"])
def test_what_is_as_long_as_the_prompt_is_refused_whoever_is_called(held: str, option: str, called: str) -> None:
    made = fresh("llava")
    adapter = Adapter(made.model)
    value = ONE["input_ids"] if option == "labels" else torch.tensor([3])
    args = (ONE["input_ids"], ONE["pixel_values"]) if called == "positional" else ()
    more = {option: value} if args else {**ONE, option: value}
    call = made.model if called == "model" else adapter
    held_model = adapter if held == "adapter" else made.model
    with gp.prune(held_model, GRID, 5), pytest.raises(NotImplementedError, match=option):
        call(*args, **more)


class Embedder(nn.Module):
    """A model of one's own around a backbone; it generates nothing."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, **inputs: Any) -> Tensor:
        return self.backbone(**inputs)[0][:, -1]


@cuts
def test_a_backbone_may_be_pruned_in_a_model_that_generates_nothing(at: gp.Stage) -> None:
    embedder = Embedder(MODEL.model)
    with gp.prune(MODEL.model, GRID, 5, at=at) as handle:
        near(embedder(**ONE), forward(MODEL.model, ONE).last_hidden_state[:, -1])
        assert [s.k for s in handle.selections] == [5]


def test_a_second_head_over_a_pruned_model_is_refused() -> None:
    one = fresh("llava").model
    two = type(one)(one.config).eval()
    two.model, two.generation_config = one.model, one.generation_config
    with gp.prune(one, GRID, 5), pytest.raises(NotImplementedError, match="prune the LlavaForConditionalGeneration"):
        generate(two, ONE)


def test_a_part_is_not_pruned_behind_its_models_back() -> None:
    plain = generate(MODEL, ONE)
    with gp.prune(MODEL.model, GRID, 5) as handle:
        for call in (lambda: generate(MODEL, ONE), lambda: forward(MODEL, ONE, labels=ONE["input_ids"])):
            with pytest.raises(NotImplementedError, match="prune the LlavaForConditionalGeneration"):
                call()
        forward(MODEL.model, ONE)  # the part alone has no labels, and generates nothing
        assert [s.k for s in handle.selections] == [5]
        assert forward(MODEL, MADE.prompt(((),))).logits.shape[0] == 1  # nor has text anything to prune
    assert same(generate(MODEL, ONE), plain)


# Handles --------------------------------------------------------------------------------------------------------------


def test_a_second_removal_lifts_no_other_handles_guard() -> None:
    made = fresh("llava")
    generate(made.model, ONE, max_new_tokens=1)  # the first forward puts hooks of transformers' own on
    before = proofs.fingerprint(made.model)
    first = gp.prune(made.model, GRID, 5)
    first.remove()
    second = gp.prune(made.model, GRID, 7)
    first.remove()
    with pytest.raises(RuntimeError, match=r"gp\.remove\(model\)"):
        gp.prune(made.model, GRID, 3)
    generate(made.model, ONE, max_new_tokens=2)
    assert [s.k for s in second.selections] == [7]
    second.remove()
    assert changed(before, proofs.fingerprint(made.model)) == set()


@pytest.mark.parametrize("whole", [True, False])
def test_a_lost_handle_can_be_undone(whole: bool) -> None:
    made = fresh("llava")
    before = proofs.fingerprint(made.model)
    gp.prune(made.model, GRID, 5)
    gp.remove(made.model if whole else made.model.get_decoder())
    assert changed(before, proofs.fingerprint(made.model)) == set()
    gp.remove(made.model)  # nothing to undo
    with gp.prune(made.model, GRID, 5):
        pass


def test_a_removed_handle_says_so() -> None:
    handle = gp.prune(MODEL, GRID, 5)
    generate(MODEL, ONE, max_new_tokens=2)
    handle.remove()
    with pytest.raises(RuntimeError, match="handle was removed"), handle.using(keep=3):
        pass
    assert handle.report().kept == 5  # of the last call, which is what a with block leaves


def test_two_models_may_share_a_vision_tower() -> None:
    one, two = fresh("llava"), fresh("llava")
    two.model.model.vision_tower = one.model.model.vision_tower
    alone = []
    for made, method in ((one, gp.ClsTopK()), (two, gp.GreedyPrune())):
        with gp.prune(made.model, method, 5) as handle:
            generate(made.model, ONE, max_new_tokens=2)
            alone.append(orders(handle))
    with gp.prune(one.model, gp.ClsTopK(), 5) as first, gp.prune(two.model, gp.GreedyPrune(), 5) as second:
        for made, handle, expected in ((one, first, alone[0]), (two, second, alone[1])):
            generate(made.model, ONE, max_new_tokens=2)
            assert orders(handle) == expected


def test_a_stage_may_be_written_as_it_prints() -> None:
    for at in (gp.Input(), gp.Layer(2), EARLY, gp.Layers((1, 3))):
        with gp.prune(MODEL, gp.Random(), 5, at=str(at)) as handle:
            generate(MODEL, ONE, max_new_tokens=2)
            assert handle.report().at == str(at)


def test_relevance_that_nobody_weighs_is_told() -> None:
    worth = [torch.rand(16)]
    with pytest.warns(gp.PruneWarning, match=r"GreedyPrune does not weigh relevance.*cdpruner"):
        gp.prune(MODEL, gp.GreedyPrune(), 5, relevance=worth).remove()
    gp.prune(MODEL, gp.CDPruner(), 5, relevance=worth).remove()
    with gp.prune(MODEL, gp.GreedyPrune(), 5) as handle, handle.using(relevance=[None]):
        generate(MODEL, ONE, max_new_tokens=2)
