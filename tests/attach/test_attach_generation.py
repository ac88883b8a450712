"""Ways to run a pruned model, on one family: by hand, with beams, samples, threads, in bfloat16, offloaded."""

import threading

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules

import greedyprune as gp
import proofs
from proofs import (
    EAGER,
    GRID,
    MADE,
    MODEL,
    ONE,
    RAGGED,
    TWO,
    WORDS,
    assert_near,
    at_once,
    forward,
    generate,
    near,
    places,
    same,
    short_prompts,
    truth,
)
from tiny import IMAGE, SPECIAL, fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")


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
        assert proofs.cache_of(uncached) is None
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
@short_prompts
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
            step = {"input_ids": answer.tokens[:, index : index + 1], "past_key_values": proofs.cache_of(out)}
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
                with handle.using() as request:
                    run = generate(MODEL, inputs)
                if not same(run, expected[0]) or [s.rows.tolist() for s in request.selections] != expected[1]:
                    failures.append("another answer than alone")

        at_once(work, zip(everyone, alone, strict=True))
    assert failures == []


@places
@short_prompts
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
