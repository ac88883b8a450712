"""Faults that users of neighbouring libraries reported, tried here: each is right, or refused by name."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import time
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.generation import LogitsProcessorList
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import greedyprune as gp
import proofs
from greedyprune.attach.context import CALL
from greedyprune.verify.traces import changed
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
from tinies import fixed
from tiny import IMAGE, Tiny, fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")

LATER = [gp.Input(), gp.Layer(2)]
cuts = pytest.mark.parametrize("at", LATER, ids=str)


def orders(handle: gp.Pruned) -> list[list[int]]:
    """What was taken of each image, in order."""
    return [selection.order.tolist() for selection in handle.selections]


def prompt_of(ids: list[int], rows: proofs.Rows = ((0,),)) -> dict[str, Tensor]:
    """A prompt of these tokens, with the pictures of these rows."""
    made = MADE.prompt(rows)
    mask = torch.ones(1, len(ids), dtype=torch.long)
    return {**made, "input_ids": torch.tensor([ids]), "attention_mask": mask}


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
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
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


# The prompt's length is known to generate(), not told by arguments ----------------------------------------------------


@cuts
@pytest.mark.parametrize("few", [1, 3, 8, 31, 36])
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


# The last token of a prompt stays -------------------------------------------------------------------------------------

BARE = [IMAGE] * 16


@places
@pytest.mark.parametrize("method", [gp.GreedyPrune(), gp.UniformGrid(), gp.Random()], ids=["greedy", "grid", "random"])
@pytest.mark.parametrize("ids", [[5, 6, 7, 8, *BARE], [5, *BARE, 6, 7, *BARE]], ids=["one", "two"])
def test_the_next_token_is_read_off_the_last_one_of_an_image(ids: list[int], method: gp.Method, at: gp.Stage) -> None:
    inputs = prompt_of(ids, ((0,),) if ids.count(IMAGE) == 16 else ((0, 1),))
    with gp.prune(MODEL, method, 3, at=at) as handle:
        run = generate(MODEL, inputs, max_new_tokens=5)
    assert [s.k for s in handle.selections] == [3] * len(handle.selections)
    assert 15 in handle.selections[-1].rows.tolist()
    near(run.logits, proofs.truth(inputs, run.sequences, handle.selections, at))


@cuts
def test_the_last_token_stays_in_every_row_and_at_every_cut(at: gp.Stage) -> None:
    ids = torch.tensor([[5, 6, *BARE], [0, 0, 0, 0, 0, 0, *BARE[:12]]])  # the second row: fewer words, padded
    ids[1] = torch.tensor([0, 7, *BARE])
    inputs = {**MADE.prompt(((0,), (1,))), "input_ids": ids, "attention_mask": (ids != 0).long()}
    keep = gp.PerLayer({1: 9, 3: 2}) if at != gp.Input() else 2
    with gp.prune(MODEL, gp.Random(), keep, at=None if at != gp.Input() else at) as handle:
        run = generate(MODEL, inputs, max_new_tokens=4)
        alone = [
            generate(MODEL, prompt_of([t for t in row.tolist() if t], ((i,),)), max_new_tokens=4)
            for i, row in enumerate(ids)
        ]
    assert all(15 in s.rows.tolist() for s in handle.selections)
    for row, single in enumerate(alone):
        near(run.logits[row : row + 1], single.logits)


def test_a_newline_that_ends_a_prompt_stays() -> None:
    made, eager = tiny("llava_next"), tiny("llava_next", "eager")
    whole = made.prompt(((0,),))
    end = int((whole["input_ids"][0] == IMAGE).nonzero()[-1]) + 1
    inputs = {**whole, **{key: whole[key][:, :end] for key in ("input_ids", "attention_mask")}}
    with gp.prune(made.model, gp.Random(), 1, at=gp.Layer(2)) as handle:
        run = generate(made.model, inputs, max_new_tokens=4)
    selection = handle.selections[0]
    assert selection.places[-1] == selection.n + len(selection.structure) - 1
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
    near(run.logits, proofs.masked(eager, inputs, run.sequences, dropped, gp.Layer(2)))


@pytest.mark.parametrize(
    ("method", "keep", "match"),
    [(gp.ToMe(), 5, "ToMe merges tokens"), (gp.AveragePool(), 4, "AveragePool merges"), (GRID, 0, "budget keeps 0")],
    ids=str,
)
def test_what_cannot_keep_the_last_token_is_refused(method: gp.Method, keep: int, match: str) -> None:
    with gp.prune(MODEL, method, keep), pytest.raises(ValueError, match=f"prompt 0 ends with an image.*{match}"):
        generate(MODEL, prompt_of([5, 6, *BARE]))


def test_a_method_that_reads_text_says_that_a_prompt_has_none() -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5), pytest.raises(ValueError, match=r"prompt 0 holds no text.*GreedyPrune"):
        generate(MODEL, prompt_of(BARE))


# Packed prompts -------------------------------------------------------------------------------------------------------


@cuts
@pytest.mark.parametrize("family", ["llava", "smolvlm", "qwen2_5_vl"])
def test_two_prompts_in_one_row_are_refused(family: str, at: gp.Stage) -> None:
    made = tiny(family)
    a, b = made.prompt(((0,),)), made.prompt(((1,),))
    counts = [torch.arange(each["input_ids"].shape[1]) for each in (a, b)]
    positions = torch.cat(counts)[None] if family != "qwen2_5_vl" else torch.cat(counts).expand(3, 1, -1)
    pixels = {key: torch.cat([a[key], b[key]], int(family == "smolvlm")) for key in a if key.startswith("pixel")}
    grids = {key: torch.cat([a[key], b[key]]) for key in a if key.endswith("grid_thw")}
    packed = {"input_ids": torch.cat([a["input_ids"], b["input_ids"]], 1), "position_ids": positions, **pixels, **grids}
    with gp.prune(made.model, gp.Random(), 5, at=at) as handle:
        with pytest.raises(NotImplementedError, match="go back, as those of several prompts packed"):
            forward(made.model, packed, use_cache=False)
        text = {"input_ids": WORDS.repeat(1, 2), "position_ids": torch.arange(6).repeat(2)[None]}
        if family == "llava":  # packed text is as it was
            packed_text = forward(made.model, text, use_cache=False).logits
        assert not handle.selections
    if family == "llava":
        near(packed_text, forward(made.model, text, use_cache=False).logits)


@cuts
@pytest.mark.parametrize("name", ["cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"])
def test_borders_of_packed_prompts_are_refused(name: str, at: gp.Stage) -> None:
    value = 3 if name.startswith("max") else torch.tensor([0, ONE["input_ids"].shape[1]], dtype=torch.int32)
    with gp.prune(MODEL, GRID, 5, at=at), pytest.raises(NotImplementedError, match=name):
        forward(MODEL, ONE, use_cache=False, **{name: value})


def test_positions_that_go_back_in_padding_are_no_packing() -> None:
    """Padded rows get position 1 in their padding and count from 0 behind it; a kernel of flash type sees no mask."""
    AttentionInterface.register("flash_stand_in", lambda *a, cu_seq_lens_q=None, **k: sdpa_attention_forward(*a, **k))
    positions = (RAGGED["attention_mask"].cumsum(1) - 1).masked_fill(RAGGED["attention_mask"] == 0, 1)
    with gp.prune(MODEL, GRID, 5) as handle:
        forward(MODEL, {**RAGGED, "position_ids": positions})
        assert len(handle.selections) == 3


# Padding on the right -------------------------------------------------------------------------------------------------


def right_padded(made: Tiny, rows: proofs.Rows) -> dict[str, Tensor]:
    """The prompts of a batch with their padding behind them."""
    inputs = made.prompt(rows)
    lefts = (inputs["attention_mask"] == 0).sum(1).tolist()
    names = [key for key in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids") if key in inputs]
    rolled = {key: torch.stack([row.roll(-n) for row, n in zip(inputs[key], lefts, strict=True)]) for key in names}
    return {**inputs, **rolled}


@cuts
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "smolvlm", "gemma3"])
def test_generation_behind_padding_is_refused(family: str, at: gp.Stage) -> None:
    made = tiny(family)
    with gp.prune(made.model, gp.Random(), 5, at=at) as handle:
        with pytest.raises(NotImplementedError, match='padding_side = "left"'):
            generate(made.model, right_padded(made, ((0,), (1, 2))))
        assert not handle.selections  # nothing ran
        generate(made.model, right_padded(made, ((0,), (0,))), max_new_tokens=2)  # rows of one length have none


def test_padding_that_generate_finds_itself_is_refused_too() -> None:
    inputs = right_padded(MADE, ((0,), (1, 2)))
    del inputs["attention_mask"]
    with gp.prune(MODEL, GRID, 5), pytest.raises(NotImplementedError, match="padding_side"):
        generate(MODEL, inputs)


@cuts
def test_a_forward_and_steps_by_hand_may_be_padded_on_the_right(at: gp.Stage) -> None:
    rows = ((0,), (1, 2))
    inputs = right_padded(MADE, rows)
    with gp.prune(MODEL, GRID, 5, at=at):
        alone = [generate(MODEL, MADE.prompt((row,)), max_new_tokens=3) for row in rows]
        out, mask = forward(MODEL, inputs, use_cache=True), inputs["attention_mask"]
        words, lengths = torch.cat([run.tokens for run in alone]), mask.sum(1)
        for step in (0, 1):
            mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
            given = {
                "input_ids": words[:, step : step + 1],
                "attention_mask": mask,
                "position_ids": (lengths + step)[:, None],
            }
            out = forward(MODEL, given, past_key_values=proofs.cache_of(out))
            for row, run in enumerate(alone):
                near(out.logits[row, -1], run.logits[0, step + 1])


# Towers decide what an image is ---------------------------------------------------------------------------------------


@cuts
@pytest.mark.parametrize("rows", [((0,),), ((1,),), ((3,),), ((0, 1),), ((0,), (1, 2))], ids=str)
def test_a_llava_with_pixtrals_tower_has_images_of_any_size(rows: proofs.Rows, at: gp.Stage) -> None:
    made, eager = tiny("llava pixtral"), tiny("llava pixtral", "eager")
    inputs = made.prompt(rows)
    with gp.prune(made.model, gp.GreedyPrune(), 5, at=at) as handle:
        run = generate(made.model, inputs, max_new_tokens=4)
    sizes = [fixed.SIZES[number % 4] for row in rows for number in row]
    assert [(s.n, s.grid, s.k) for s in handle.selections] == [(h * w // 16, (1, h // 4, w // 4), 5) for h, w in sizes]
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
    near(run.logits, proofs.masked(eager, inputs, run.sequences, dropped, at))


# Interrupts -----------------------------------------------------------------------------------------------------------


def stop(kind: type[BaseException]) -> Any:
    """A hook that raises."""

    def hook(*_: Any) -> None:
        raise kind("stop")

    return hook


@cuts
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_an_interrupt_leaves_no_door_open_for_a_pruned_cache(family: str, kind: Any, at: gp.Stage) -> None:
    made = fresh(family)
    inputs = made.prompt(((0,),))
    handle = gp.prune(made.model, gp.Random(), 5, at=at)
    first = generate(made.model, inputs, max_new_tokens=3)
    cache = copy.deepcopy(first.cache)
    with proofs.hooked(made.model.get_decoder().layers[3].register_forward_hook(stop(kind))), pytest.raises(kind):
        generate(made.model, inputs)
    assert CALL.get() is None
    more = made.continued(
        {key: inputs[key] for key in ("attention_mask", "input_ids")}, torch.cat([first.sequences, WORDS], 1)
    )
    other = fresh(family)
    for model in (other.model, made.model):  # an unpruned model while the call still stands there, then its own
        if model is made.model:
            handle.remove()
        with pytest.raises(RuntimeError, match="filled while the model was pruned"):
            generate(model, more, past_key_values=copy.deepcopy(cache), max_new_tokens=2)
    assert CALL.get() is None


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_nothing_is_alive_after_an_interrupt(kind: Any) -> None:
    made = fresh("llava")
    model, inputs, seen = made.model, ONE, weakref.ref(made.model)
    with pytest.raises(kind), gp.prune(model, gp.Random(), 5, at=gp.Layer(2)):  # noqa: PT012
        model.get_decoder().layers[3].register_forward_hook(stop(kind))
        generate(model, inputs)
    del made, model
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("where", ["tower", "decoder"])
def test_a_method_that_looks_into_the_tower_goes_on_after_an_interrupt(where: str) -> None:
    made = fresh("llava")
    module = made.model.model.vision_tower if where == "tower" else made.model.get_decoder().layers[1]
    with gp.prune(made.model, gp.ClsTopK(), 5) as handle:
        with proofs.hooked(module.register_forward_pre_hook(stop(KeyboardInterrupt))), pytest.raises(KeyboardInterrupt):
            generate(made.model, ONE)
        generate(made.model, ONE, max_new_tokens=2)
        assert [s.k for s in handle.selections] == [5]


@cuts
def test_a_forward_is_pruned_as_a_whole_or_not_at_all(at: gp.Stage) -> None:
    """While one thread is in the middle of a forward, another removes the pruning, and a third begins one."""
    made = fresh("llava")
    plain = forward(made.model, ONE).logits
    inside, go, found = threading.Event(), threading.Event(), dict[str, Any]()

    def wait(*_: Any) -> None:
        if threading.current_thread().name == "first":
            inside.set()
            go.wait(10)

    def run(name: str) -> None:
        found[name] = forward(made.model, ONE, use_cache=True)

    handle = gp.prune(made.model, GRID, 5, at=at)
    pruned = forward(made.model, ONE).logits
    threads = [threading.Thread(target=run, args=(name,), name=name) for name in ("first", "second")]
    threads.append(threading.Thread(target=handle.remove))
    with proofs.hooked(made.model.get_decoder().layers[1].register_forward_hook(wait)):
        threads[0].start()
        assert inside.wait(10)
        threads[2].start()
        while not handle._hooks._closing:
            time.sleep(0.001)
        threads[1].start()
        threads[1].join(10)
        assert threads[2].is_alive()  # it waits for the first
        go.set()
        for thread in threads:
            thread.join(10)
    near(found["first"].logits, pruned)
    near(found["second"].logits, plain)
    assert proofs.hooks_on(made.model) == 0
    assert "forward" not in vars(made.model.model)


def test_removal_waits_for_no_forward_that_an_interrupt_ended_and_refuses_inside_one() -> None:
    made = fresh("llava")
    handle = gp.prune(made.model, GRID, 5)
    inside = lambda *_: handle.remove()  # noqa: E731
    hook = made.model.get_decoder().layers[1].register_forward_hook(inside)
    with proofs.hooked(hook), pytest.raises(RuntimeError, match="inside a forward"):
        generate(made.model, ONE)
    generate(made.model, ONE, max_new_tokens=2)
    assert [s.k for s in handle.selections] == [5]
    handle.remove()
    assert proofs.hooks_on(made.model) == 0


@cuts
def test_a_forward_that_somebody_put_back_leaves_nothing_either(at: gp.Stage) -> None:
    """Libraries that wrap a module's forward put the former one back, and with it go what stood in front."""
    made = fresh("llava")
    outer = made.model.model
    with gp.prune(made.model, GRID, 5, at=at) as handle:
        outer.forward = type(outer).forward.__get__(outer)
        hook = made.model.get_decoder().layers[3].register_forward_hook(stop(ValueError))
        with proofs.hooked(hook), pytest.raises(ValueError, match="stop"):
            generate(made.model, ONE)
        assert CALL.get() is None
        generate(made.model, ONE, max_new_tokens=2)
        assert [s.k for s in handle.selections] == [5]
    assert "forward" in vars(outer)  # which is theirs


def test_a_call_that_nobody_ended_opens_no_door_for_a_pruned_cache() -> None:
    made, other = fresh("llava"), fresh("llava")
    outer = made.model.model
    handle = gp.prune(made.model, GRID, 5)
    first = generate(made.model, ONE, max_new_tokens=3)
    outer.forward = type(outer).forward.__get__(outer)
    hook = made.model.get_decoder().layers[3].register_forward_hook(stop(KeyboardInterrupt))
    with proofs.hooked(hook), pytest.raises(KeyboardInterrupt):
        generate(made.model, ONE)
    assert CALL.get() is not None
    more = proofs.turn(MADE, ONE, first, WORDS)
    with pytest.raises(RuntimeError, match="filled while the model was pruned"):
        generate(other.model, more, past_key_values=first.cache, max_new_tokens=2)
    handle.remove()  # which ends it
    assert CALL.get() is None


def test_what_cannot_be_put_on_whole_is_taken_off_again(monkeypatch: Any) -> None:
    made = fresh("llava")
    generate(made.model, ONE, max_new_tokens=1)
    before = proofs.fingerprint(made.model)

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("greedyprune.attach.hooks.Watch", fail)
    with pytest.raises(MemoryError):
        gp.prune(made.model, GRID, 5)
    assert changed(before, proofs.fingerprint(made.model)) == set()


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
@pytest.mark.parametrize("way", [copy.deepcopy, through_pickle, through_torch])
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


# Crops of one picture -------------------------------------------------------------------------------------------------


def test_crops_that_count_as_pictures_are_told() -> None:
    """Gemma 3's pan and scan makes several pictures of one, told apart from the user's own by nothing but text."""
    made = tiny("gemma3")
    _, pieces = made.images(((0,),))

    def crops(rows: proofs.Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        pixels = [made.images(((n,),))[0]["pixel_values"] for row in rows for n in row for _ in range(3)]
        run = pieces[0]
        return {"pixel_values": torch.cat(pixels)}, [
            [11, 12, *run, 13, 14, *run, 15, *run] for row in rows for _ in row
        ]

    inputs = replace(made, images=crops).prompt(((0,),))
    with gp.prune(made.model, gp.GreedyPrune(), 5) as handle:
        with pytest.warns(gp.PruneWarning, match=r"crops of one picture.*Total\(5\)"):
            generate(made.model, inputs, max_new_tokens=2)
        assert [s.k for s in handle.selections] == [5, 5, 5]
        with handle.using(keep=gp.Total(5)):  # which is what the warning says, and no reason for one
            generate(made.model, inputs, max_new_tokens=2)
        assert sum(s.k for s in handle.selections) == 5
        generate(made.model, made.prompt(((0, 1, 2),)), max_new_tokens=2)  # pictures with words between them


# The default device ---------------------------------------------------------------------------------------------------


@places
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "smolvlm", "llava_next", "gemma3"])
def test_index_tensors_do_not_follow_the_default_device(family: str, at: gp.Stage) -> None:
    made = tiny(family)
    if not proofs.can_be_cut(family, at):
        pytest.skip("it cannot be cut there")
    inputs = made.prompt(((0,), (1, 2)))
    with gp.prune(made.model, gp.GreedyPrune(), gp.Ratio(0.4), at=at) as handle:
        plain, kept = forward(made.model, inputs, use_cache=True).logits, [s.places.tolist() for s in handle.selections]
        with OnlyOurs():
            moved = forward(made.model, inputs, use_cache=True).logits
            assert [s.places.tolist() for s in handle.selections] == kept
    assert torch.equal(plain, moved)


FACTORIES = ("arange", "ones", "zeros", "full", "tensor", "empty", "eye", "linspace", "rand", "randn", "randperm")


class OnlyOurs(torch.overrides.TorchFunctionMode):
    """Inside, what this library makes without a device is made on "meta", as if the default device were another."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import sys

        kwargs = kwargs or {}
        caller = sys._getframe(1).f_globals.get("__name__", "")
        ours = caller.startswith("greedyprune") and getattr(function, "__name__", "") in FACTORIES
        if ours and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return function(*args, **kwargs)


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
