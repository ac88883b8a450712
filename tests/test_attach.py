"""What holds for attaching as such, on one family: the handle, refusals, ways to generate, conversations, company."""

import copy
import pickle
import threading
from types import SimpleNamespace

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from torch import nn
from transformers import DynamicCache

import greedyprune as gp
import proofs
from proofs import NEAR, assert_near, forward, generate, same
from tiny import IMAGE, SPECIAL, fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")

MADE, EAGER = tiny("llava"), tiny("llava", "eager")
MODEL = MADE.model
MODEL_OF_ITS_OWN = fresh("llava").model
ONE, TWO, RAGGED, UNEQUAL, MIXED = (MADE.prompt(case.rows) for case in proofs.CASES)
GRID = gp.UniformGrid()
WORDS = torch.tensor([[11, 12, 13, 14, 15, 16]])

places = pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
prompts = pytest.mark.parametrize("inputs", [ONE, RAGGED], ids=["one", "ragged"])


def truth(inputs, sequences, selections, at) -> torch.Tensor:
    """The logits of an answer when what the selections dropped is masked."""
    dropped = proofs.dropped_columns(inputs["input_ids"], selections)
    return proofs.masked(EAGER, inputs, sequences, dropped, at)


def near(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, **NEAR)


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
    assert same(generate(MODEL, ONE), plain)


@places
@pytest.mark.parametrize("keep", [0, 1, 15, 16, 99, gp.Ratio(0.0)], ids=str)
def test_any_budget_is_right(at, keep) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), keep, at=at) as handle:
        run = generate(MODEL, TWO)
    assert [selection.k for selection in handle.selections] == [min(keep, 16) if isinstance(keep, int) else 0] * 2
    near(run.logits, truth(TWO, run.sequences, handle.selections, at))


@pytest.mark.parametrize("at", [gp.Layer(0), gp.Layer(3)], ids=str)
@prompts
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
        (MODEL, {"keep": "64"}, TypeError, "no budget"),
        (MODEL, {}, TypeError, "keep is missing"),
        (MODEL, {"keep": -1}, ValueError, "cannot be negative"),
        (MODEL, {"keep": []}, ValueError, "holds no budget"),
        (MODEL, {"keep": [4, 0.5]}, TypeError, r"Ratio\(0.5\)"),
        (MODEL, {"keep": 4, "at": gp.Layer(4)}, ValueError, r"last place is Layer\(3\)"),
        (MODEL, {"keep": 4, "at": "layer:2"}, ValueError, "cannot run at"),
        (MODEL, {"keep": 4, "method": "greedyprun"}, ValueError, "did you mean 'greedyprune'"),
        (MODEL, {"keep": 4, "method": 3}, TypeError, "is no method"),
        (pretend("lava"), {"keep": 4}, ValueError, "did you mean 'llava'"),
        (pretend("mllama"), {"keep": 4}, ValueError, "cross-attention"),
        (nn.Linear(2, 2), {"keep": 4}, TypeError, "no transformers model"),
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


# Ways to run ----------------------------------------------------------------------------------------------------------


def padded_right(inputs) -> dict[str, torch.Tensor]:
    """The same batch with its padding on the other side, as in training."""
    lefts = (inputs["attention_mask"] == 0).sum(1).tolist()
    turned = {name: torch.stack([row.roll(-n) for row, n in zip(inputs[name], lefts, strict=True)]) for name in PADDED}
    return {**inputs, **turned}


PADDED = ("input_ids", "attention_mask")


@places
@pytest.mark.parametrize("inputs", [ONE, RAGGED, padded_right(RAGGED)], ids=["one", "ragged", "padded right"])
def test_direct_logits_are_those_of_the_kept_tokens(at, inputs) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at) as handle:
        logits = forward(MODEL, inputs).logits
        near(forward(MODEL, inputs, logits_to_keep=3).logits, logits[:, -3:])
        uncached = forward(MODEL, inputs, use_cache=False)
        near(uncached.logits, logits)
        assert uncached.past_key_values is None
        assert handle.report().cache_bytes == 0
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
    expected = proofs.masked(EAGER, inputs, inputs["input_ids"], dropped, at, everything=True)
    for row, kept in enumerate(inputs["attention_mask"].bool() & ~dropped):
        near(logits[row, -int(kept.sum()) :], expected[row, kept])


@places
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hidden_states_and_attentions_are_as_long_as_the_layer_saw(at, attention) -> None:
    model, start = tiny("llava", attention).model, at.index if isinstance(at, gp.Layer) else 0
    with gp.prune(model, GRID, 5, at=at):
        out = forward(model, ONE, output_hidden_states=True, output_attentions=attention == "eager")
    full, short = 31, 20
    # Entry i holds what layer i - 1 gave; the states that were handed to the first pruned layer are still whole.
    whole = start + 1 if start else 0
    assert [states.shape[1] for states in out.hidden_states] == [full] * whole + [short] * (5 - whole)
    if attention == "eager":
        assert [a.shape[-1] for a in out.attentions] == [full] * start + [short] * (4 - start)


@places
@prompts
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
def test_a_loop_by_hand_equals_generate(at, inputs, masked) -> None:
    if not masked and inputs is RAGGED:
        pytest.skip("padding needs a mask")
    with gp.prune(MODEL, GRID, 5, at=at):
        answer, mask = generate(MODEL, inputs), inputs["attention_mask"]
        step = {"input_ids": inputs["input_ids"], "pixel_values": inputs["pixel_values"], "past_key_values": None}
        for index in range(8):
            out = forward(MODEL, step, attention_mask=mask if masked else None, use_cache=True)
            near(out.logits[:, -1], answer.logits[:, index])
            step = {"input_ids": answer.tokens[:, index : index + 1], "past_key_values": out.past_key_values}
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)


@places
@pytest.mark.parametrize("rows", [((0,),), ((), (2,))], ids=["one", "mixed"])
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True}], ids=["beams", "samples"])
def test_beams_and_samples_are_scored_right(at, rows, options) -> None:
    torch.manual_seed(0)
    options = {"do_sample": False, "max_new_tokens": proofs.STEPS, "suppress_tokens": SPECIAL, **options}
    wanted = {"num_return_sequences": 3, "return_dict_in_generate": True, "output_logits": True, "output_scores": True}
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at) as handle:
        out = MODEL.generate(**MADE.prompt(rows), **wanted, **options)
    thrice = MADE.prompt(tuple(row for row in rows for _ in range(3)))
    expected = truth(thrice, out.sequences, handle.selections, at)
    if options["do_sample"]:
        near(torch.stack(out.logits, 1), expected)
        assert out.sequences[:3].unique(dim=0).shape[0] == 3
    else:
        tokens = out.sequences[:, thrice["input_ids"].shape[1] :, None]
        near(out.sequences_scores, expected.log_softmax(-1).gather(2, tokens)[..., 0].mean(1))


def test_budgets_per_image_stand_beams() -> None:
    with gp.prune(MODEL, GRID, [5]) as handle:
        generate(MODEL, ONE, num_beams=3)
    assert {selection.k for selection in handle.selections} == {5}


@places
def test_prompt_lookup_equals_plain_greedy(at) -> None:
    repeated = {**ONE, "input_ids": ONE["input_ids"].clone()}
    repeated["input_ids"][0, -4:] = repeated["input_ids"][0, :4]  # something to look up
    with gp.prune(MODEL, GRID, 5, at=at):
        assert_near(generate(MODEL, repeated, prompt_lookup_num_tokens=3), generate(MODEL, repeated))


@places
def test_the_parts_run_alone(at) -> None:
    text, words = MODEL.get_decoder(), {"inputs_embeds": MODEL.get_input_embeddings()(WORDS).detach()}
    before = forward(text, words).last_hidden_state
    with gp.prune(MODEL, GRID, 5, at=at):
        forward(MODEL, ONE)
        assert torch.equal(forward(text, words).last_hidden_state, before)
        spoken = {"input_ids": torch.tensor([[5, IMAGE, 6]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
        assert forward(MODEL, spoken).logits.shape[1] == 3  # a placeholder id without an image is a word


# Conversations --------------------------------------------------------------------------------------------------------


def turn(inputs, answer, *pieces) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The inputs of a second turn: all text so far and `pieces` after it, no picture yet."""
    ids = torch.cat([answer.sequences, *[piece.expand(len(answer.sequences), -1) for piece in pieces]], 1)
    return MADE.continued({"attention_mask": inputs["attention_mask"], "input_ids": inputs["input_ids"]}, ids)


def dropped_so_far(ids, *turns) -> torch.Tensor:
    """What the selections of all turns dropped, images in order. (b, L) bool"""
    return proofs.dropped_columns(ids, [selection for selections in turns for selection in selections])


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(0), gp.Layer(2)], ids=str)
@pytest.mark.parametrize("inputs", [ONE, RAGGED, UNEQUAL, MIXED], ids=["one", "ragged", "unequal", "mixed"])
def test_a_second_turn_of_text_continues_the_pruned_prompt(at, inputs) -> None:
    keep = [4, 11] if inputs is UNEQUAL else 5
    with gp.prune(MODEL, gp.GreedyPrune(), keep, at=at) as handle:
        first = generate(MODEL, inputs)
        seen = handle.selections
        more = turn(inputs, first, WORDS)
        second = generate(MODEL, more, past_key_values=first.cache)
    whole = {**inputs, **more}
    expected = proofs.masked(EAGER, whole, second.sequences, dropped_so_far(more["input_ids"], seen), at)
    near(second.logits, expected)


IMAGE_PIECE = torch.tensor([[102, *[IMAGE] * 16, 103]])


@pytest.mark.parametrize(
    ("at", "rows"),
    [
        pytest.param(at, rows, id=f"{at}-{rows}")
        for at in (gp.Input(), gp.Layer(0), gp.Layer(2))
        for rows in (((0,),), ((0,), (0,)), ((),))
    ],
)
def test_a_second_turn_may_bring_an_image(at, rows) -> None:
    inputs, fresh_pixels = MADE.prompt(rows), MADE.prompt(tuple((3,) for _ in rows))["pixel_values"]
    keep = [4, 11] if len(rows) == 2 else 5
    with gp.prune(MODEL, gp.GreedyPrune(), keep, at=at) as handle:
        first = generate(MODEL, inputs)
        seen = handle.selections
        more = turn(inputs, first, WORDS[:, :3], IMAGE_PIECE, WORDS)
        second = generate(MODEL, {**more, "pixel_values": fresh_pixels}, past_key_values=first.cache)
        fresh_seen = handle.selections
    assert [selection.k for selection in fresh_seen] == ([4, 11] if len(rows) == 2 else [5])
    # Placeholders are counted row by row, pictures of both turns in that order.
    old = inputs.get("pixel_values", fresh_pixels[:0])
    order = [i for row in range(len(rows)) for i in ([row] if len(old) else []) + [len(old) + row]]
    whole = {**more, "pixel_values": torch.cat([old, fresh_pixels])[order]}
    dropped = dropped_so_far(more["input_ids"], [[*seen, *fresh_seen][i] for i in order])
    near(second.logits, proofs.masked(EAGER, whole, second.sequences, dropped, at))


def test_a_second_image_must_be_cut_where_the_first_was() -> None:
    with gp.prune(MODEL, GRID, 5, at=gp.Layer(1)):
        first = generate(MODEL, ONE)
    more = {**turn(ONE, first, IMAGE_PIECE, WORDS), "pixel_values": ONE["pixel_values"]}
    for at in (gp.Input(), gp.Layer(2)):
        with gp.prune(MODEL, GRID, 5, at=at), pytest.raises(NotImplementedError, match="keep the place of the cut"):
            generate(MODEL, more, past_key_values=first.cache)


# The cache ------------------------------------------------------------------------------------------------------------


@places
@prompts
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
def test_the_cut_follows_the_rows_of_the_cache(at, inputs, change) -> None:
    with gp.prune(MODEL, GRID, [4, 11] if inputs is UNEQUAL else 5, at=at):
        answer, rows = generate(MODEL, inputs), ROWS[change]
        cache = forward(MODEL, inputs, use_cache=True).past_key_values
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


# Company --------------------------------------------------------------------------------------------------------------


@places
def test_threads_do_not_meet(at) -> None:
    everyone = [ONE, TWO, RAGGED, MADE.prompt(proofs.TEXT.rows)]
    failures: list[str] = []
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at) as handle:
        alone = [(generate(MODEL, inputs), [s.rows.tolist() for s in handle.selections]) for inputs in everyone]
        together = threading.Barrier(len(everyone))

        def work(inputs, expected) -> None:
            together.wait()
            for _ in range(3):
                run = generate(MODEL, inputs)
                if not same(run, expected[0]) or [s.rows.tolist() for s in handle.selections] != expected[1]:
                    failures.append("another answer than alone")

        threads = [threading.Thread(target=work, args=pair) for pair in zip(everyone, alone, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


@places
@prompts
def test_bfloat16_keeps_all_and_prunes(at, inputs) -> None:
    model = fresh("llava").model.to(torch.bfloat16)
    inputs = {**inputs, "pixel_values": inputs["pixel_values"].bfloat16()}
    plain = generate(model, inputs)
    with gp.prune(model, gp.GreedyPrune(), gp.Ratio(1.0), at=at):
        # The kept-all prompt has an explicit mask where the plain one has none: another kernel, rounded to bfloat16.
        torch.testing.assert_close(generate(model, inputs).logits[:, 0], plain.logits[:, 0], rtol=0, atol=0.1)
    with gp.prune(model, gp.GreedyPrune(), 5, at=at) as handle:
        generate(model, inputs)
    for selection in handle.selections:
        assert selection.k == 5
        assert selection.keep.gains.dtype != torch.bfloat16  # decided in at least float32


@places
@pytest.mark.parametrize("first", ["offload", "prune"])
@pytest.mark.filterwarnings(
    "ignore:You are calling .generate:UserWarning"
)  # 5.16 takes offloaded weights for the device
def test_offloaded_models_give_the_same_answers(at, first) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at):
        answer = generate(MODEL, RAGGED)
    model = fresh("llava").model
    plain = generate(model, RAGGED)
    if first == "offload":
        cpu_offload(model, execution_device=torch.device("cpu"))
    with gp.prune(model, gp.GreedyPrune(), 5, at=at):
        if first == "prune":
            cpu_offload(model, execution_device=torch.device("cpu"))
        assert_near(generate(model, RAGGED), answer)
    assert_near(generate(model, RAGGED), plain)
    remove_hook_from_submodules(model)
    assert_near(generate(model, RAGGED), plain)


def test_broken_weights_are_named_and_the_model_survives() -> None:
    plain, weight = generate(MODEL, ONE), MODEL.model.multi_modal_projector.linear_2.weight
    healthy = weight.data
    for at in (gp.Input(), gp.Layer(2)):
        with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at) as handle:
            weight.data = torch.full_like(healthy, torch.nan)
            with pytest.raises(ValueError, match="holds NaN or infinity"):
                generate(MODEL, ONE)
            weight.data = healthy
            generate(MODEL, ONE)
            assert [selection.k for selection in handle.selections] == [5]
        assert same(generate(MODEL, ONE), plain)
