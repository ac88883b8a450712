"""What text raters look at, the keys and values of a decoder layer, and what it adds to states: those of the model's
own eager attention, its cache and its states, on every family, for every image and cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.cues import Attention, Change, Keys, Values
from greedyprune.probes.decoder import raters
from looks import LAST, RATERS, all_near, asking, asking_all, prompt_of, raters_of, text_of
from proofs import CASES, CORE, FIRST, RAGGED, forward, generate, keep_of
from tiny import IMAGE, fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")

case = pytest.mark.parametrize("case", some(CASES, "ragged"), ids=str)
attention = pytest.mark.parametrize("attention", proofs.ATTENTIONS)


HEADED = ("gemma3", "llava gemma3")
"""Models with Gemma 3's decoder."""
DEEP = ("qwen3_vl", "qwen3_5")
"""Models with DeepStack, and without attention in all layers."""
STATES = 1e-4
"""The rounding of states, which are far larger than attention weights."""


@pytest.mark.parametrize("family", some([*CORE, *HEADED], *FIRST, "qwen3_vl", *HEADED))
@attention
@case
@pytest.mark.parametrize("layer", [0, 2])
def test_the_raters_rows_are_those_of_eager_attention(family, attention, case, layer) -> None:
    eager, inputs, embeds, images = prompt_of(family, case)
    weights = forward(eager.model, inputs, output_attentions=True).attentions[layer].mean(1)
    expected = [
        torch.stack([weights[row, j, columns] for j in raters_of(inputs, embeds, row, columns)]).mean(0)
        for row, columns in images
    ]
    seen: list[Tensor] = []
    made = tiny(family, attention)
    with gp.prune(made.model, asking(seen, RATERS, gp.Layer(layer + 1)), keep_of(case)):
        forward(made.model, inputs)
        generate(made.model, inputs, max_new_tokens=2)
    all_near(seen, expected * 2)


@pytest.mark.parametrize("family", some([*CORE, *HEADED], *FIRST, *HEADED))
@attention
@case
def test_the_questions_rows_are_those_of_eager_attention(family, attention, case) -> None:
    eager, inputs, _, images = prompt_of(family, case)
    weights = forward(eager.model, inputs, output_attentions=True).attentions[1].mean(1)
    asking_of = {row: int((inputs["input_ids"][row] == IMAGE).nonzero().max()) + 1 for row, _ in images}
    expected = [weights[row, asking_of[row] :, columns].mean(0) for row, columns in images]
    seen: list[Tensor] = []
    made = tiny(family, attention)
    with gp.prune(made.model, asking(seen, Attention("question"), gp.Layer(2)), keep_of(case)):
        forward(made.model, inputs)
        generate(made.model, inputs, max_new_tokens=2)
    all_near(seen, expected * 2)


@pytest.mark.parametrize("family", some([*CORE, *HEADED, "qwen3_vl"], *FIRST, "qwen3_vl"))
@case
@torch.no_grad()
def test_the_mean_query_of_an_image_attends_to_its_tokens_alone(family, case) -> None:
    made, inputs, _, images = prompt_of(family, case)
    layer = made.model.get_decoder().layers[1]
    states = layer.input_layernorm(proofs.states_entering(made.model, inputs, gp.Layer(1)))
    attention = layer.self_attn
    expected = []
    for row, columns in images:
        heads = []
        for which in ("q", "k"):
            own = getattr(attention, f"{which}_proj")(states[row, columns]).unflatten(-1, (-1, attention.head_dim))
            own = getattr(attention, f"{which}_norm", lambda x: x)(own)
            heads.append(own.double())
        queries, keys = heads
        rows = []
        for head in range(queries.shape[1]):
            group = head * keys.shape[1] // queries.shape[1]
            scores = [float(queries[:, head].mean(0) @ key) * attention.scaling for key in keys[:, group]]
            rows.append(torch.tensor(scores, dtype=torch.float64).softmax(0))
        expected.append(torch.stack(rows).mean(0).float())
    seen: list[Tensor] = []
    with gp.prune(made.model, asking(seen, Attention("image"), gp.Layer(2)), keep_of(case)):
        forward(made.model, inputs)
        generate(made.model, inputs, max_new_tokens=2)
    all_near(seen, expected * 2)


def test_without_a_question_the_last_token_asks() -> None:
    made = tiny("llava")
    inputs = made.prompt(((0,),))
    end = int((inputs["input_ids"][0] == IMAGE).nonzero().max()) + 1
    inputs = {name: each[:, :end] if each.ndim == 2 else each for name, each in inputs.items()}
    found = []
    for word in ("question_attention", "attention"):
        with gp.prune(made.model, gp.Saliency(saliency=word), 6, at=gp.Layer(2)) as handle:
            forward(made.model, inputs)
            found.append((handle.selections[0].order.tolist(), handle.selections[0].keep.gains.tolist()))
    assert found[0] == found[1]


def test_raters_stand_behind_their_image_and_are_not_always_the_last_token() -> None:
    found = []
    for family in CORE:
        for case in CASES:
            _, inputs, embeds, images = prompt_of(family, case)
            found += [(raters_of(inputs, embeds, *image), int(image[1][-1])) for image in images]
    assert all(min(chosen) > last for chosen, last in found)
    assert {len(chosen) for chosen, _ in found} > {1, 2}


def test_raters_by_hand() -> None:
    visual, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    assert raters(visual, text).tolist() == [True, False, True]
    assert raters(visual[1:], text).tolist() == [False, False, True]
    for same in (torch.zeros(3, 2), torch.full((7, 2), 0.3), torch.ones(1, 2)):  # nobody is above the mean
        assert not raters(visual, same).any()


def test_without_a_rater_behind_the_image_the_last_token_rates() -> None:
    ids = RAGGED["input_ids"].clone()
    for row in range(2):  # the same token everywhere but in front: no text behind an image is above the mean
        text = [c for c in text_of(RAGGED, row) if c > int((ids[row] == IMAGE).nonzero()[0, 0])]
        ids[row, text] = 7
    made, inputs, seen, last = tiny("llava"), {**RAGGED, "input_ids": ids}, list[Tensor](), list[Tensor]()
    embedding = made.model.get_input_embeddings().weight
    old = embedding.data.clone()
    try:
        embedding.data[7] = 0
        with gp.prune(made.model, asking(seen, RATERS, gp.Layer(2)), 4) as handle:
            forward(made.model, inputs)
            with handle.using(asking(last, LAST, gp.Layer(2))):
                forward(made.model, inputs)
    finally:
        embedding.data.copy_(old)
    all_near(seen, last)


@pytest.mark.parametrize("family", some([*CORE, "qwen2_vl", "qwen3_vl_moe", *HEADED], *FIRST, *HEADED))
@attention
@case
@pytest.mark.parametrize("what", ["keys", "text keys", "values"])
@pytest.mark.parametrize("named", [False, True])
def test_keys_and_values_are_those_that_the_layer_keeps_in_its_cache(family, attention, case, what, named) -> None:
    eager, inputs, _, images = prompt_of(family, case)
    layer = 0 if named else 1
    # Without position ids a plain forward counts padding too, so keys are turned otherwise than by generate().
    caches = (
        proofs.cache_of(forward(eager.model, inputs, use_cache=True)),
        generate(eager.model, inputs, max_new_tokens=2).cache,
    )
    seen: list[Tensor] = []
    made = tiny(family, attention)
    at = layer if named else None
    need = {"keys": Keys("decoder", at), "text keys": Keys("decoder", at, "text"), "values": Values(at)}[what]
    with gp.prune(made.model, asking(seen, need, gp.Layer(2)), keep_of(case)):
        forward(made.model, inputs)
        generate(made.model, inputs, max_new_tokens=2)
    places = [(row, torch.tensor(text_of(inputs, row)) if what == "text keys" else c) for row, c in images]
    held = [getattr(cache.layers[layer], what.split()[-1]) for cache in caches]
    expected = [rows[row][:, c].transpose(0, 1) for rows in held for row, c in places]
    assert seen[0].shape == (len(places[0][1]), 2, 16 if family == "llava gemma3" else 8)
    all_near(seen, expected)


@pytest.mark.parametrize(
    "family", some([*CORE, "qwen3_vl", "qwen3_5", "lfm2_vl", *HEADED], *FIRST, "qwen3_vl", "qwen3_5")
)
@attention
@case
@pytest.mark.parametrize("named", [False, True])
def test_a_change_is_what_a_layer_adds_to_the_states_that_enter_the_next(family, attention, case, named) -> None:
    """DeepStack's features, which the model adds between early layers, are part of it."""
    eager, inputs, _, images = prompt_of(family, case)
    layer = 0 if named else 1
    expected: list[Tensor] = []
    for run in (forward, generate):
        with entering(eager.model) as states:
            run(eager.model, inputs)
        expected += [(states[layer + 1] - states[layer])[row, columns] for row, columns in images]
    seen: list[Tensor] = []
    made = tiny(family, attention)
    with gp.prune(made.model, asking(seen, Change(layer if named else None), gp.Layer(2)), keep_of(case)):
        forward(made.model, inputs)
        generate(made.model, inputs, max_new_tokens=2)
    all_near(seen, expected, STATES)


@contextmanager
def entering(model: Any) -> Iterator[list[Tensor]]:
    """The states that enter each decoder layer of the first forward inside, (b, q, d), before any cut there."""
    states: list[Tensor] = []

    def note(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    with ExitStack() as hooks:
        for layer in model.get_decoder().layers:
            hooks.enter_context(proofs.hooked(layer.register_forward_pre_hook(note, prepend=True, with_kwargs=True)))
        yield states


EVERY = (LAST, RATERS, Keys("decoder"), Keys("decoder", of="text"), Values(), Change())


@pytest.mark.parametrize("family", some([*CORE, *HEADED], *FIRST, "qwen3_vl", *HEADED))
@attention
def test_every_cut_sees_what_the_one_before_it_left(family, attention) -> None:
    eager, inputs, embeds, images = prompt_of(family, CASES[2])
    schedule, given = gp.PerLayer({1: gp.Ratio(0.7), 2: gp.Ratio(0.5), 3: gp.Ratio(0.3)}), list[gp.Cues]()

    with gp.prune(tiny(family, attention).model, asking_all(given, EVERY, gp.Input()), schedule):
        forward(tiny(family, attention).model, inputs)
    with gp.prune(eager.model, asking_all([], EVERY, gp.Input()), schedule), entering(eager.model) as states:
        out = forward(eager.model, inputs, output_attentions=True, use_cache=True)
    before = torch.arange(inputs["input_ids"].shape[1]).expand(inputs["input_ids"].shape)
    there, kept = inputs["attention_mask"].bool().clone(), [columns for _, columns in images]
    for cut in range(3):
        weights, held = out.attentions[cut].mean(1), proofs.cache_of(out).layers[cut]
        # Where the original columns are in the sequence of this layer: short rows are padded on the left.
        short = there.cumsum(1) - 1 + there.sum(1).max() - there.sum(1, keepdim=True)
        for cues, (row, columns), left in zip(given[3 * cut : 3 * cut + 3], images, kept, strict=True):
            visual, text = short[row, left], short[row, text_of(inputs, row)]
            rated = short[row, raters_of(inputs, embeds, row, columns)]
            all_near(
                [cues[need] for need in EVERY[:-1]],
                [
                    weights[row, -1, visual],
                    weights[row][rated][:, visual].mean(0),
                    held.keys[row][:, visual].transpose(0, 1),
                    held.keys[row][:, text].transpose(0, 1),
                    held.values[row][:, visual].transpose(0, 1),
                ],
            )
            added = states[cut + 1][row, visual] - states[cut][row, before[row, left]]
            all_near([cues[Change()]], [added], STATES)
        before = short
        if cut < 2:
            counts = [cues.n for cues in given[3 * cut + 3 : 3 * cut + 6]]
            for image, k in enumerate(counts):
                picked = torch.randperm(len(kept[image]), generator=torch.Generator().manual_seed(k))[:k]
                there[images[image][0], kept[image]] = False
                kept[image] = kept[image][picked.sort().values]
                there[images[image][0], kept[image]] = True


def test_keys_and_values_are_those_of_the_cache_if_none_is_filled_too() -> None:
    """With a KV cache they are read behind the layer; without one they are computed again."""
    made, given = fresh("llava"), list[gp.Cues]()
    with gp.prune(made.model, asking_all(given, EVERY, gp.Layer(2)), 5):
        for use_cache in (True, False):
            forward(made.model, RAGGED, use_cache=use_cache)
    assert len(given) == 6  # three images, twice
    for held, computed in zip(given[:3], given[3:], strict=True):
        all_near([computed[need] for need in EVERY[2:-1]], [held[need] for need in EVERY[2:-1]])


def test_keys_values_and_changes_are_those_of_this_turn_alone() -> None:
    made, given = fresh("llava"), list[gp.Cues]()
    with gp.prune(made.model, asking_all(given, EVERY, gp.Layer(2)), 5):
        first = generate(made.model, RAGGED, max_new_tokens=3)
        more = proofs.turn(made, RAGGED, first, proofs.WORDS, proofs.IMAGE_PIECE, proofs.WORDS)
        ids = more["input_ids"][:, first.cache.get_seq_length() :]
        pixels, mask = torch.cat([proofs.ONE["pixel_values"]] * 2), more["attention_mask"]
        given.clear()
        inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
        with entering(made.model) as states:
            forward(made.model, inputs, past_key_values=first.cache)
        held = first.cache.layers[1]
        keys, values = (each[:, :, -ids.shape[1] :].transpose(1, 2) for each in (held.keys, held.values))
    for row, cues in enumerate(given):
        visual, text = ids[row] == IMAGE, ids[row] != IMAGE
        all_near([cues[need] for need in EVERY[2:-1]], [keys[row, visual], keys[row, text], values[row, visual]])
        all_near([cues[Change()]], [(states[2] - states[1])[row, visual]], STATES)
    assert len(given) == 2


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("turn", [1, 2])
def test_a_layer_that_is_read_computes_its_keys_once(turn: int, use_cache: bool) -> None:
    """Behind the layer its KV cache holds them. Without one they are computed again."""
    model, inputs = tiny("llava").model, tiny("llava").prompt(((0,),))
    calls: list[int] = []
    with gp.prune(model, gp.FastV(), 4, at=gp.Layer(2)):
        if turn == 2:
            cache = proofs.cache_of(forward(model, inputs, use_cache=True))
            ones = torch.ones(1, 2 * inputs["input_ids"].shape[1], dtype=torch.int64)
            inputs = {**inputs, "attention_mask": ones, "past_key_values": cache}
        hook = model.get_decoder().layers[1].self_attn.k_proj.register_forward_hook(lambda *_: calls.append(1))
        try:
            forward(model, inputs, use_cache=use_cache)
        finally:
            hook.remove()
    assert len(calls) == (1 if use_cache or turn == 2 else 2)
