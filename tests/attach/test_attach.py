"""What holds for attaching as such, on one family: the handle, what it leaves behind, and what is refused."""

import copy
import pickle
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import greedyprune as gp
import proofs
from proofs import (
    EAGER,
    GRID,
    MODEL,
    ONE,
    RAGGED,
    TWO,
    assert_near,
    forward,
    generate,
    near,
    places,
    same,
    short_prompts,
    truth,
)
from tiny import IMAGE, fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")

MODEL_OF_ITS_OWN = fresh("llava").model


# The handle -----------------------------------------------------------------------------------------------------------


def test_a_model_is_pruned_once_at_a_time() -> None:
    plain, before = generate(MODEL, ONE), proofs.fingerprint(MODEL)
    with gp.prune(MODEL, GRID, 5) as first:
        answer = generate(MODEL, ONE)
        for twin in (MODEL, MODEL.model, copy.copy(MODEL)):
            with pytest.raises(RuntimeError, match="pruned already"):
                gp.prune(twin, "saliency", 3)
        assert same(generate(MODEL, ONE), answer)
        assert [selection.k for selection in first.selections] == [5]
    assert proofs.fingerprint(MODEL) == before
    assert same(generate(MODEL, ONE), plain)
    with gp.prune(MODEL, GRID, 5):
        assert same(generate(MODEL, ONE), answer)


def test_a_handle_works_without_with_and_is_removed_once(request) -> None:
    plain, handle = generate(MODEL, ONE), gp.prune(MODEL, "grid", gp.Ratio(0.25), at=gp.Input())
    request.addfinalizer(handle.remove)
    assert handle.selections == []
    assert "nothing was pruned" in str(handle.report())
    assert not same(generate(MODEL, ONE), plain)
    assert "16 -> 4 visual tokens" in str(handle.report())
    assert handle.report().to_dict()["kept"] == handle.selections[0].to_dict()["kept"] == 4
    with gp.prune(tiny("llava", "eager").model, GRID, 3):  # another model meanwhile
        handle.remove()
        handle.remove()
        assert proofs.hooks_on(EAGER.model) > 0
    assert proofs.hooks_on(MODEL) == 0
    assert same(generate(MODEL, ONE), plain)


@places
@pytest.mark.parametrize("keep", [0, 1, 15, 16, 99, gp.Ratio(0.0)], ids=str)
def test_any_budget_is_right(at, keep) -> None:
    more = pytest.warns(gp.PruneWarning, match="more than all of them") if keep == 99 else nullcontext()
    with gp.prune(MODEL, gp.GreedyPrune(), keep, at=at) as handle, more:
        run = generate(MODEL, TWO)
    assert [selection.k for selection in handle.selections] == [min(keep, 16) if isinstance(keep, int) else 0] * 2
    near(run.logits, truth(TWO, run.sequences, handle.selections, at))


@pytest.mark.parametrize("at", [gp.Layer(0), gp.Layer(3)], ids=str)
@short_prompts
def test_the_first_and_the_last_layer_are_places_too(at, inputs) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at) as handle:
        run = generate(MODEL, inputs)
    near(run.logits, truth(inputs, run.sequences, handle.selections, at))


# Refusals -------------------------------------------------------------------------------------------------------------


def pretend(model_type: str) -> SimpleNamespace:
    """Something that says it is a model of this type."""
    return SimpleNamespace(config=SimpleNamespace(model_type=model_type, vision_config=None), get_decoder=lambda: None)


@pytest.mark.parametrize(
    ("model", "options", "error", "match"),
    [
        (MODEL, {"keep": 0.5}, TypeError, r"write Ratio\(0.5\)"),
        (MODEL, {"keep": True}, TypeError, "no budget"),
        (MODEL, {"keep": "sixty"}, ValueError, "no budget"),
        (MODEL, {}, TypeError, "keep is missing"),
        (MODEL, {"keep": -1}, ValueError, "cannot be negative"),
        (MODEL, {"keep": []}, ValueError, "holds no budget"),
        (MODEL, {"keep": [4, 0.5]}, TypeError, r"Ratio\(0.5\)"),
        (MODEL, {"keep": 4, "at": gp.Layer(4)}, ValueError, r"last place is Layer\(3\)"),
        (MODEL, {"keep": 4, "at": "layer:x"}, ValueError, "names no stage"),
        (MODEL, {"keep": 4, "at": 2}, TypeError, r"write Layer\(2\)"),
        (MODEL, {"keep": 4, "at": True}, TypeError, "is no stage"),
        (MODEL, {"keep": 4, "method": "greedyprun"}, ValueError, "did you mean 'greedyprune'"),
        (MODEL, {"keep": 4, "method": 3}, TypeError, "is no method"),
        (pretend("lava"), {"keep": 4}, ValueError, "did you mean 'llava'"),
        (pretend("mllama"), {"keep": 4}, ValueError, "cross-attention"),
        (nn.Linear(2, 2), {"keep": 4}, TypeError, "no transformers model"),
        (SimpleNamespace(model=MODEL), {"keep": 4}, TypeError, "pass its model, as .model"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_attached(model, options, error, match) -> None:
    before = proofs.fingerprint(MODEL)
    with pytest.raises(error, match=match):
        gp.prune(model, **options)
    assert proofs.fingerprint(MODEL) == before


REFUSED = {
    "labels": lambda: forward(MODEL, ONE, labels=ONE["input_ids"]),
    "inputs_embeds": lambda: forward(MODEL, {"inputs_embeds": MODEL.get_input_embeddings()(ONE["input_ids"])}),
    "4-D mask": lambda: forward(MODEL, ONE, attention_mask=torch.zeros(1, 1, 31, 31)),
    "tensor of positions": lambda: forward(MODEL, ONE, logits_to_keep=torch.tensor([3, 4])),
    "static cache": lambda: generate(MODEL, ONE, cache_implementation="static"),
    "give one for each": lambda: generate(MODEL, TWO),  # keep has one budget, the prompt two images
    "placeholders": lambda: forward(MODEL, {**ONE, "input_ids": ONE["input_ids"].clamp(max=IMAGE - 1)}),
    "cannot be copied": lambda: copy.deepcopy(MODEL),
}
REMEDY = {
    "inputs_embeds": "pass input_ids",
    "4-D mask": "pass a 2-D mask",
    "placeholders": "do not match|placeholders",
}


@places
@pytest.mark.parametrize("call", REFUSED, ids=str)
def test_a_call_that_cannot_be_pruned_is_refused(at, call) -> None:
    plain = generate(MODEL, ONE)
    with gp.prune(MODEL, GRID, [5], at=at) as handle:
        answer = generate(MODEL, ONE)
        with pytest.raises((NotImplementedError, ValueError, TypeError), match=REMEDY.get(call, call)):
            REFUSED[call]()
        assert same(generate(MODEL, ONE), answer)  # the refused call left nothing behind
        assert [selection.k for selection in handle.selections] == [5]
    assert same(generate(MODEL, ONE), plain)


@places
def test_copies_and_pickles_are_refused_with_the_remedy(at) -> None:
    model = MODEL_OF_ITS_OWN
    with gp.prune(model, GRID, 5, at=at) as handle:
        for attempt in (copy.deepcopy, copy.copy, pickle.dumps):
            with pytest.raises(TypeError, match="remove"):
                attempt(handle)
        with pytest.raises((TypeError, AttributeError)):
            pickle.dumps(model)
    assert same(generate(pickle.loads(pickle.dumps(model)), ONE), generate(MODEL, ONE))


def test_a_pickled_model_is_refused_with_the_remedy() -> None:
    with gp.prune(MODEL_OF_ITS_OWN, GRID, 5), pytest.raises(TypeError, match="remove"):
        pickle.dumps(MODEL_OF_ITS_OWN)


@places
@pytest.mark.parametrize(
    ("method", "size"),
    [
        *[pytest.param(GRID, size, id=f"grid-{size}") for size in (8, 22, 27, 31)],
        *[pytest.param(gp.GreedyPrune(), size, id=f"greedyprune-{size}") for size in (8, 22, 27, 31)],
    ],
)
def test_chunked_prefill_is_refused_or_right(at, method, size) -> None:
    plain = generate(MODEL, ONE, prefill_chunk_size=size)
    if not torch.equal(plain.tokens, generate(MODEL, ONE).tokens):
        pytest.skip("this release of transformers loses the image when it prefills in chunks")
    with gp.prune(MODEL, method, 5, at=at):
        answer = generate(MODEL, ONE)
        try:
            chunked = generate(MODEL, ONE, prefill_chunk_size=size)
        except (NotImplementedError, ValueError) as refusal:
            assert "prefill_chunk_size" in str(refusal)  # noqa: PT017
        else:
            assert_near(chunked, answer)


@places
def test_masks_of_many_kinds_are_refused(at) -> None:
    masks = {"full_attention": torch.zeros(2, 1, 52, 52)}
    with gp.prune(MODEL, GRID, 5, at=at), pytest.raises(NotImplementedError, match="mask"):
        forward(MODEL, RAGGED, attention_mask=masks)


@places
def test_arguments_may_be_positional(at) -> None:
    ids, pixels = ONE["input_ids"], ONE["pixel_values"]
    with torch.no_grad(), gp.prune(MODEL, GRID, 5, at=at):
        near(MODEL(ids, pixels).logits, MODEL(input_ids=ids, pixel_values=pixels).logits)


@places
def test_arguments_of_the_inner_model_may_be_positional(at) -> None:
    ids, pixels = ONE["input_ids"], ONE["pixel_values"]
    with torch.no_grad(), gp.prune(MODEL, GRID, 5, at=at):
        near(MODEL.model(ids, pixels)[0], MODEL.model(input_ids=ids, pixel_values=pixels)[0])
