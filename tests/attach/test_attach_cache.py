"""The cache of a pruned prompt, on one family: later turns, cropping, rearranging, resetting."""

import pytest
import torch
from transformers import DynamicCache

import greedyprune as gp
import proofs
from proofs import (
    EAGER,
    EARLY,
    GRID,
    IMAGE_PIECE,
    MADE,
    MIXED,
    MODEL,
    ONE,
    RAGGED,
    UNEQUAL,
    WORDS,
    forward,
    generate,
    near,
    places,
    same,
    short_prompts,
    turn,
)

pytestmark = pytest.mark.usefixtures("untouched")


# Conversations --------------------------------------------------------------------------------------------------------


def dropped_so_far(ids, *turns) -> torch.Tensor:
    """What the selections of all turns dropped, images in order. (b, L) bool"""
    return proofs.dropped_columns(ids, [selection for selections in turns for selection in selections])


def ends_of(*turns) -> list[int]:
    """Where the prompt of each turn ends."""
    return [inputs["input_ids"].shape[1] for inputs in turns]


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(0), gp.Layer(2), EARLY], ids=str)
@pytest.mark.parametrize("inputs", [ONE, RAGGED, UNEQUAL, MIXED], ids=["one", "ragged", "unequal", "mixed"])
def test_a_second_turn_of_text_continues_the_pruned_prompt(at, inputs) -> None:
    keep = [4, 11] if inputs is UNEQUAL else 5
    with gp.prune(MODEL, gp.GreedyPrune(), keep, at=at) as handle:
        first = generate(MODEL, inputs)
        seen = handle.selections
        more = turn(MADE, inputs, first, WORDS)
        second = generate(MODEL, more, past_key_values=first.cache)
    dropped, ends = dropped_so_far(more["input_ids"], seen), ends_of(inputs, more)
    near(second.logits, proofs.masked(EAGER, {**inputs, **more}, second.sequences, dropped, at, prompts=ends))


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2), EARLY], ids=str)
def test_padding_of_a_later_turn_is_seen_by_nobody(at) -> None:
    """Two prompts of one length, then words for both, fewer for the second: as if each were alone."""
    rows, few = ((0,), (1,)), 2
    with gp.prune(MODEL, GRID, 5, at=at):
        alone = []
        for row, count in zip(rows, (WORDS.shape[1], few), strict=True):
            inputs = MADE.prompt((row,))
            first = generate(MODEL, inputs, max_new_tokens=3)
            more = proofs.turn(MADE, inputs, first, WORDS[:, :count])
            alone.append(generate(MODEL, more, past_key_values=first.cache, max_new_tokens=1).logits[0, 0])
        inputs = MADE.prompt(rows)
        first = generate(MODEL, inputs, max_new_tokens=3)
        past, lack = first.cache.get_seq_length(), WORDS.shape[1] - few
        tail = first.sequences[:, past:]  # the last word of the answer, which is not in the cache yet
        second = torch.cat([torch.zeros(1, lack, dtype=torch.long), tail[1:], WORDS[:, :few]], 1)
        ids = torch.cat([torch.cat([tail[:1], WORDS], 1), second])
        valid = torch.ones_like(ids)
        valid[1, :lack] = 0
        mask = torch.cat(
            [inputs["attention_mask"], torch.ones(2, past - inputs["attention_mask"].shape[1]).long(), valid], 1
        )
        positions = (mask.cumsum(1) - 1)[:, -ids.shape[1] :].clamp(min=0)
        step = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        out = forward(MODEL, step, past_key_values=first.cache).logits[:, -1]
    for row, expected in zip(out, alone, strict=True):
        near(row, expected)


@pytest.mark.parametrize(
    ("at", "rows"),
    [
        pytest.param(at, rows, id=f"{at}-{rows}")
        for at in (gp.Input(), gp.Layer(0), gp.Layer(2), EARLY)
        for rows in (((0,),), ((0,), (0,)), ((),))
    ],
)
def test_a_second_turn_may_bring_an_image(at, rows) -> None:
    inputs, fresh_pixels = MADE.prompt(rows), MADE.prompt(tuple((3,) for _ in rows))["pixel_values"]
    keep = [4, 11] if len(rows) == 2 else 5
    with gp.prune(MODEL, gp.GreedyPrune(), keep, at=at) as handle:
        first = generate(MODEL, inputs)
        seen = handle.selections
        more = turn(MADE, inputs, first, WORDS[:, :3], IMAGE_PIECE, WORDS)
        second = generate(MODEL, {**more, "pixel_values": fresh_pixels}, past_key_values=first.cache)
        fresh_seen = handle.selections
    assert [selection.k for selection in fresh_seen] == ([4, 11] if len(rows) == 2 else [5])
    # Placeholders are counted row by row, pictures of both turns in that order.
    old = inputs.get("pixel_values", fresh_pixels[:0])
    order = [i for row in range(len(rows)) for i in ([row] if len(old) else []) + [len(old) + row]]
    whole = {**more, "pixel_values": torch.cat([old, fresh_pixels])[order]}
    dropped = dropped_so_far(more["input_ids"], [[*seen, *fresh_seen][i] for i in order])
    near(second.logits, proofs.masked(EAGER, whole, second.sequences, dropped, at, prompts=ends_of(inputs, more)))


def test_a_second_image_must_be_cut_where_the_first_was() -> None:
    with gp.prune(MODEL, GRID, 5, at=gp.Layer(1)):
        first = generate(MODEL, ONE)
    more = {**turn(MADE, ONE, first, IMAGE_PIECE, WORDS), "pixel_values": ONE["pixel_values"]}
    for at in (gp.Input(), gp.Layer(2), gp.Layer(1, early=True)):
        with gp.prune(MODEL, GRID, 5, at=at), pytest.raises(NotImplementedError, match="keep the place of the cut"):
            generate(MODEL, more, past_key_values=first.cache)


# The cache ------------------------------------------------------------------------------------------------------------


@places
@short_prompts
def test_a_cache_is_cropped_down_to_the_prompt_and_no_further(at, inputs) -> None:
    with gp.prune(MODEL, GRID, 5, at=at):
        answer = generate(MODEL, inputs)
        cache, length = answer.cache, inputs["input_ids"].shape[1]
        cache.crop(-9)  # 10 of the 19 tokens that were read after the prompt stay
        assert [layer.get_seq_length() for layer in cache.layers] == [length + 10] * 4
        again = {name: value for name, value in inputs.items() if name != "pixel_values"}
        again = MADE.continued(again, answer.sequences[:, : length + 11])
        near(generate(MODEL, again, past_key_values=cache, max_new_tokens=9).logits, answer.logits[:, 11:])
        cache.crop(-19)
        assert cache.get_seq_length() == length
        with pytest.raises(ValueError, match="cannot be brought back"):
            cache.crop(-1)


REARRANGE = {
    "reordered": lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
    "reduced": lambda cache: cache.batch_select_indices(torch.tensor([1])),
    "repeated": lambda cache: cache.batch_repeat_interleave(2),
}
ROWS = {"reordered": [1, 0], "reduced": [1], "repeated": [0, 0, 1, 1]}


@places
@pytest.mark.parametrize("inputs", [RAGGED, UNEQUAL], ids=["ragged", "unequal"])
@pytest.mark.parametrize("change", REARRANGE)
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_the_cut_follows_the_rows_of_the_cache(at, inputs, change, positions) -> None:
    with gp.prune(MODEL, GRID, [4, 11] if inputs is UNEQUAL else 5, at=at, positions=positions):
        answer, rows = generate(MODEL, inputs), ROWS[change]
        cache = proofs.cache_of(forward(MODEL, inputs, use_cache=True))
        REARRANGE[change](cache)
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)[rows]
        step = {"input_ids": answer.tokens[rows, :1], "attention_mask": mask, "past_key_values": cache}
        near(forward(MODEL, step).logits[:, -1], answer.logits[rows, 1])


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
def test_a_refused_crop_leaves_the_cache_whole(at) -> None:
    with gp.prune(MODEL, GRID, 5, at=at):
        cache = generate(MODEL, ONE).cache
        sizes = [layer.keys.shape for layer in cache.layers]
        with pytest.raises(ValueError, match="cannot be brought back"):
            cache.crop(-30)
        assert [layer.keys.shape for layer in cache.layers] == sizes


@places
def test_a_cache_is_reset_and_used_again(at) -> None:
    cache = DynamicCache()
    with gp.prune(MODEL, GRID, 5, at=at):
        first = generate(MODEL, RAGGED, past_key_values=cache)
        cache.reset()
        if cache.get_seq_length():
            pytest.skip("this release of transformers does not empty a dynamic cache on reset")
        assert same(generate(MODEL, RAGGED, past_key_values=cache), first)
        cache.reset()
    assert same(generate(MODEL, RAGGED, past_key_values=cache), generate(MODEL, RAGGED))
