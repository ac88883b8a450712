"""Faults that users of neighbouring libraries reported: what generate() knows, copies of a cache, text alone."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.generation import LogitsProcessorList

import greedyprune as gp
import proofs
from breadth import some
from field import cuts, orders
from proofs import (
    EARLY,
    GRID,
    MADE,
    MODEL,
    ONE,
    RAGGED,
    WORDS,
    assert_near,
    forward,
    generate,
    near,
    places,
    same,
)
from tiny import fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")


# The prompt's length is known to generate(), not told by arguments ----------------------------------------------------


@cuts
@pytest.mark.parametrize("few", some([1, 3, 8, 31, 36], 1, 8))
def test_how_many_logits_are_kept_says_nothing_of_the_prompt(few: int, at: gp.Stage) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at) as handle:
        whole, kept = forward(MODEL, ONE).logits, orders(handle)
        cache = DynamicCache(config=MODEL.config.get_text_config())
        some = forward(MODEL, ONE, past_key_values=cache, logits_to_keep=few).logits
        assert orders(handle) == kept
    near(some, whole[:, -few:])


@cuts
@pytest.mark.parametrize(
    "method", [gp.GreedyPrune(), gp.GreedyPrune(text="question_mean"), gp.MMR()], ids=["last", "question", "mmr"]
)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_an_answer_without_a_cache_is_that_with_one(family: str, method: gp.Method, at: gp.Stage) -> None:
    made = tiny(family)
    for rows in (((0,),), ((0,), (1, 2))):
        inputs = made.prompt(rows)
        with gp.prune(made.model, method, 5, at=at) as handle:
            cached, kept, report = generate(made.model, inputs, max_new_tokens=6), orders(handle), handle.report()
            fresh_run = generate(made.model, inputs, max_new_tokens=6, use_cache=False)
            assert_near(fresh_run, cached)
            assert orders(handle) == kept
            assert handle.report().sequence == report.sequence  # the prompt's, not that of the last step


def test_attention_without_a_cache_is_that_of_the_prompt() -> None:
    with gp.prune(MODEL, gp.FastV(), 5, at=gp.Layer(2)) as handle:
        cached, kept = generate(MODEL, RAGGED, max_new_tokens=6), orders(handle)
        assert_near(generate(MODEL, RAGGED, max_new_tokens=6, use_cache=False), cached)
        assert orders(handle) == kept


@cuts
def test_a_forward_by_hand_inside_generate_is_a_prompt_of_its_own(at: gp.Stage) -> None:
    other, found = MADE.prompt(((0, 1),)), list[Any]()
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at) as handle:
        expected = forward(MODEL, other).logits[:, -1]

        def look(ids: Tensor, scores: Tensor) -> Tensor:
            found.append((forward(MODEL, other).logits[:, -1], [s.k for s in handle.selections]))
            return scores

        generate(MODEL, ONE, max_new_tokens=2, logits_processor=LogitsProcessorList([look]))
    assert [kept for _, kept in found] == [[5, 5], [5, 5]]
    for logits, _ in found:
        near(logits, expected)


@pytest.mark.parametrize(
    "more", [{"num_beams": 2}, {"num_return_sequences": 2, "num_beams": 2}], ids=["beams", "returns"]
)
@pytest.mark.parametrize("hint", ["keep", "protect", "relevance"])
def test_lists_per_image_follow_beams_without_a_cache(hint: str, more: dict[str, Any]) -> None:
    hints = {"keep": [5], "protect": [[3]], "relevance": [torch.rand(16)]}
    given = {"keep": 5, hint: hints[hint]}
    with gp.prune(MODEL, gp.CDPruner(), at=gp.Layer(2), **given):
        cached = generate(MODEL, ONE, max_new_tokens=4, **more)
        uncached = generate(MODEL, ONE, max_new_tokens=4, use_cache=False, **more)
    assert torch.equal(cached.sequences, uncached.sequences)


def test_a_generate_that_was_fetched_before_is_refused() -> None:
    made = fresh("llava")
    early, plain = made.model.generate, generate(made.model, ONE, max_new_tokens=3)
    with gp.prune(made.model, GRID, 5) as handle:
        for call in (early, lambda **inputs: type(made.model).generate(made.model, **inputs)):
            with pytest.raises(NotImplementedError, match="fetched before the model was pruned"):
                call(**ONE, max_new_tokens=3)
        assert not handle.selections
        early(**MADE.prompt(((),)), max_new_tokens=3)  # text has nothing to prune
        late = made.model.generate
    again = late(**ONE, max_new_tokens=3, do_sample=False, suppress_tokens=proofs.SPECIAL)  # and one kept too long
    assert torch.equal(again, plain.sequences)


def test_an_early_cut_needs_a_cache() -> None:
    with gp.prune(MODEL, GRID, 5, at=EARLY) as handle:
        with pytest.raises(NotImplementedError, match="generate with a cache"):
            generate(MODEL, ONE, use_cache=False)
        assert not handle.selections  # at the first step, not at the second


@cuts
def test_a_turn_knows_its_prompt_whether_all_ids_come_or_the_new_ones(at: gp.Stage) -> None:
    picture = MADE.prompt(((1,),))["pixel_values"]
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at) as handle:
        found: list[Any] = []
        for new_alone in (False, True):
            first = generate(MODEL, ONE, max_new_tokens=3)
            more = {**proofs.turn(MADE, ONE, first, proofs.IMAGE_PIECE, WORDS), "pixel_values": picture}
            if new_alone:
                more["input_ids"] = more["input_ids"][:, first.cache.get_seq_length() :]
            run = generate(MODEL, more, past_key_values=first.cache, max_new_tokens=4)
            found.append((run.logits, orders(handle)))
    near(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


# Copies of a cache ----------------------------------------------------------------------------------------------------


def through_pickle(value: Any) -> Any:
    """Written and read again."""
    return pickle.loads(pickle.dumps(value))


def through_torch(value: Any) -> Any:
    """The same by torch."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@places
@pytest.mark.parametrize("family", ["llava", "gemma3 short window", "qwen3_5"])
@pytest.mark.parametrize("way", some([copy.deepcopy, through_pickle, through_torch], copy.deepcopy, through_pickle))
def test_a_copy_of_a_pruned_cache_goes_on_like_it(family: str, way: Any, at: gp.Stage) -> None:
    made = tiny(family)
    if not proofs.can_be_cut(family, at):
        pytest.skip("it cannot be cut there")
    inputs = made.prompt(((0,), (1,)))
    with gp.prune(made.model, gp.Random(), 5, at=at):
        first = generate(made.model, inputs, max_new_tokens=3)
        again = way(first.cache)
        more = made.continued(
            {key: inputs[key] for key in ("attention_mask", "input_ids")},
            torch.cat([first.sequences, WORDS.expand(2, -1)], 1),
        )
        assert same(*(generate(made.model, more, past_key_values=c, max_new_tokens=4) for c in (again, first.cache)))


def test_what_a_call_tells_can_be_pickled() -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5) as handle:
        generate(MODEL, ONE, max_new_tokens=2)
        selection, report = through_pickle((handle.selections[0], handle.report()))
        assert selection.to_dict() == handle.selections[0].to_dict()
        assert report == handle.report()
        assert torch.equal(selection.gains, handle.selections[0].keep.gains)
        assert torch.equal(selection.suppressed_by, handle.selections[0].keep.suppressed_by)


# Text is not refused for what images forbid ---------------------------------------------------------------------------

TEXT = MADE.prompt(((),))
LONG = TEXT["input_ids"].shape[1]
TEXT_CALLS: dict[str, Any] = {
    "labels": lambda: forward(MODEL, TEXT, labels=TEXT["input_ids"]).loss,
    "positions of logits": lambda: forward(MODEL, TEXT, logits_to_keep=torch.tensor([LONG - 1])).logits,
    "a static cache": lambda: generate(MODEL, TEXT, cache_implementation="static", max_new_tokens=3).logits,
    "a 4-D mask": lambda: (
        forward(MODEL, {**TEXT, "attention_mask": torch.ones(1, 1, LONG, LONG, dtype=torch.bool).tril()}).logits
    ),
    "a mask for each kind": lambda: forward(MODEL, {**TEXT, "attention_mask": None}, use_cache=False).logits,
    "padding on the right": lambda: (
        generate(
            MODEL,
            {
                "input_ids": torch.cat([TEXT["input_ids"], torch.zeros(1, 2, dtype=torch.long)], 1),
                "attention_mask": torch.cat([TEXT["attention_mask"], torch.zeros(1, 2, dtype=torch.long)], 1),
            },
            max_new_tokens=3,
        ).logits
    ),
}


@cuts
@pytest.mark.parametrize("call", TEXT_CALLS)
def test_text_is_as_without_pruning(call: str, at: gp.Stage) -> None:
    plain = TEXT_CALLS[call]()
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at):
        assert torch.equal(TEXT_CALLS[call](), plain)


class Paged:
    """What stands for the cache of `generate_batch`, which holds many prompts and has no length."""


def test_a_cache_without_a_length_is_no_matter_for_text_and_refused_for_images() -> None:
    with gp.prune(MODEL.model, GRID, 5):
        text = MODEL.model.language_model
        with proofs.hooked(text.register_forward_pre_hook(without_cache_argument, with_kwargs=True)):
            forward(MODEL.model, {**TEXT, "past_key_values": Paged()})
        with pytest.raises(NotImplementedError, match="a Paged cannot be pruned"):
            forward(MODEL.model, {**ONE, "past_key_values": Paged()})


def without_cache_argument(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A hook behind ours that takes away the cache that nothing here can fill."""
    return args, {key: value for key, value in kwargs.items() if not isinstance(value, Paged)}


def test_a_placeholder_of_images_and_videos_alike_is_no_missing_video(recwarn: Any) -> None:
    made = tiny("glm4v")
    with gp.prune(made.model, gp.Random(), 3) as handle:
        generate(made.model, made.prompt(((0,),)), max_new_tokens=2)
    assert [s.k for s in handle.selections] == [3]
    assert not [each for each in recwarn if issubclass(each.category, gp.PruneWarning)]
