"""Methods that look at attention: nothing is computed that nobody asked for and nothing stays, what they drop is
masked, they take the largest first, and where a model or a place has no such attention they are refused by name."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import Any

import accelerate
import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.attach.context import TOWER_RUNS
from greedyprune.cues import Attention, Keys
from greedyprune.models.needs import placed
from greedyprune.models.parts import find_parts
from looks import CLS, LAST, RATERS, Last, asking, class_rows, eager_rows, near, noting
from proofs import CASES, CORE, MADE, MODEL, ONE, RAGGED, TWO, forward, generate, same
from tiny import IMAGE, decoder, fresh, tiny, tower

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 3}
TEXT_KEYS = Keys("decoder", of="text")
case = pytest.mark.parametrize("case", some(CASES, "ragged"), ids=str)
attention = pytest.mark.parametrize("attention", proofs.ATTENTIONS)


# Only where asked for, and gone afterwards ----------------------------------------------------------------------------


def test_nothing_is_computed_for_a_method_that_does_not_ask(monkeypatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("looked at attention that nobody needs")

    for name in ("class_row", "received_row", "tower_keys"):
        monkeypatch.setattr(f"greedyprune.attach.hooks.encoders.{name}", never)
    for name in ("decoder_rows", "decoder_keys"):
        monkeypatch.setattr(f"greedyprune.attach.hooks.decoder.{name}", never)
    with gp.prune(MODEL, gp.GreedyPrune(), 4) as handle:
        generate(MODEL, ONE, **FEW)
        with handle.using("cls"), pytest.raises(AssertionError, match="nobody needs"):
            generate(MODEL, ONE, **FEW)
        with handle.using("fastv"), pytest.raises(AssertionError, match="nobody needs"):
            generate(MODEL, ONE, **FEW)
        generate(MODEL, ONE, **FEW)


@pytest.mark.parametrize("method", ["cls", "fastv"])
def test_nothing_is_left_behind(method) -> None:
    plain, before = generate(MODEL, RAGGED), proofs.fingerprint(MODEL)

    def is_as_before() -> None:
        assert TOWER_RUNS.get() == ()
        assert proofs.fingerprint(MODEL) == before
        assert same(generate(MODEL, RAGGED), plain)

    with gp.prune(MODEL, method, 4):
        generate(MODEL, RAGGED)
    is_as_before()
    broken = {**RAGGED, "pixel_values": RAGGED["pixel_values"][:, :, :7]}  # the tower itself raises
    with gp.prune(MODEL, method, 4) as handle:
        wanted = generate(MODEL, RAGGED)
        rows = [s.rows.tolist() for s in handle.selections]
        with pytest.raises((ValueError, RuntimeError)):
            forward(MODEL, broken)
        assert same(generate(MODEL, RAGGED), wanted)
        assert [s.rows.tolist() for s in handle.selections] == rows
    is_as_before()


@pytest.mark.filterwarnings(
    "ignore:You are calling .generate:UserWarning"
)  # 5.16 takes offloaded weights for the device
@pytest.mark.parametrize("method", ["cls", "fastv"])
def test_offloaded_weights_are_read_alike(method) -> None:
    made = fresh("llava")

    def answer() -> tuple[proofs.Run, list[list[int]]]:
        with gp.prune(made.model, method, 4) as handle:
            return generate(made.model, RAGGED), [selection.order.tolist() for selection in handle.selections]

    wanted, orders = answer()
    accelerate.cpu_offload(made.model, execution_device=torch.device("cpu"))
    found, again = answer()
    assert same(found, wanted)
    assert again == orders


def test_threads_do_not_meet() -> None:
    prompts = [ONE, TWO, RAGGED, MADE.prompt(((3,), (1, 2)))]
    jobs = [(inputs, method) for inputs in prompts for method in ("cls", "fastv", "greedyprune")]
    failures: list[int] = []
    with gp.prune(MODEL, gp.GreedyPrune(), 5) as handle:

        def answer(job) -> list[list[int]]:
            with handle.using(job[1]):
                generate(MODEL, job[0], **FEW)
                return [selection.order.tolist() for selection in handle.selections]

        expected = [answer(job) for job in jobs]

        def work(first: int) -> None:
            for call in range(12):
                place = (5 * first + 7 * call) % len(jobs)
                if answer(jobs[place]) != expected[place]:
                    failures.append(place)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


# The methods ----------------------------------------------------------------------------------------------------------


METHODS = [
    (gp.FastV(), gp.Layer(2)),
    (gp.FastV(), proofs.EARLY),
    (gp.ClsTopK(), gp.Input()),
    (gp.ClsTopK(), gp.Layer(2)),
    (gp.DivPrune(), gp.Input()),
    (gp.DivPrune(), gp.Layer(1)),
]
proved = pytest.mark.parametrize(
    ("method", "at"), METHODS, ids=lambda v: str(v) if isinstance(v, gp.Stage) else type(v).__name__
)


@proved
@attention
@case
def test_what_the_methods_drop_is_masked(method, at, attention, case) -> None:
    eager = tiny("llava", "eager")
    inputs, run = eager.prompt(case.rows), proofs.pruned("llava", attention, at, case, method)
    dropped = proofs.dropped_columns(inputs["input_ids"], run.selections)
    proofs.near(run.logits, proofs.masked(eager, inputs, run.sequences, dropped, at))
    for selection, budget in zip(run.selections, case.budgets(), strict=True):
        assert selection.k == (budget.of(selection.n) if isinstance(budget, gp.Ratio) else budget)


@proved
@pytest.mark.parametrize("case", [CASES[2], CASES[4]], ids=str)
def test_keeping_all_changes_nothing_and_a_row_alone_is_the_row_of_its_batch(method, at, case) -> None:
    plain = proofs.plain("llava", "sdpa", case)
    with gp.prune(MODEL, method, 16, at=at):
        proofs.assert_near(generate(MODEL, MADE.prompt(case.rows)), plain)
    batch = proofs.pruned("llava", "sdpa", at, case, method)
    for row in range(len(case.rows)):
        alone = proofs.pruned("llava", "sdpa", at, case.row(row), method)
        assert torch.equal(alone.tokens[0], batch.tokens[row])
        mine = [selection.rows.tolist() for selection in batch.selections if selection.row == row]
        assert [selection.rows.tolist() for selection in alone.selections] == mine


@pytest.mark.parametrize("method", ["fastv", "cls"])
def test_the_methods_take_the_largest_first_and_ties_by_index(method) -> None:
    weights = torch.tensor([0.1, 0.3, 0.1, 0.3, 0.0, 0.1])
    cues = gp.Cues(torch.zeros(6, 2), attention=weights)
    keep = gp.select(method, cues, 4)
    assert keep.order.tolist() == [1, 3, 0, 2]
    near(keep.gains, weights[keep.order])
    guarded = gp.Cues(torch.zeros(6, 2), attention=weights, protect=torch.tensor([4, 5]))
    assert gp.select(method, guarded, 4).order.tolist() == [4, 5, 1, 3]
    need = {"fastv": LAST, "cls": CLS}[method]
    listed = gp.Cues(torch.zeros(6, 2), attention=-weights, more={need: weights})  # what is listed goes first
    assert gp.select(method, listed, 4).order.tolist() == [1, 3, 0, 2]


def test_what_the_methods_look_at_is_what_decides() -> None:
    tower_row = class_rows(tiny("llava", "eager"), ONE["pixel_values"], -2)[0, 1:]
    layer_1 = forward(tiny("llava", "eager").model, ONE, output_attentions=True).attentions[1]
    for method, weights in ((gp.ClsTopK(), tower_row), (gp.FastV(), eager_rows(layer_1, ONE, [16])[0])):
        with gp.prune(MODEL, method, 6) as handle:
            generate(MODEL, ONE, **FEW)
        assert handle.selections[0].order.tolist() == weights.topk(6).indices.tolist()
        near(handle.selections[0].keep.gains, weights.topk(6).values)


# Cues and refusals ----------------------------------------------------------------------------------------------------


def test_cues_that_do_not_fit_are_refused() -> None:
    x = torch.zeros(6, 2)
    for bad in (torch.rand(5), torch.arange(6)):
        with pytest.raises(
            ValueError, match=r"attention has shape .* one floating-point value for each of the 6 tokens"
        ):
            gp.Cues(x, attention=bad)
        with pytest.raises(ValueError, match=r"Attention\(kind='cls', layer=None.*\) has shape"):
            gp.Cues(x, more={CLS: bad})
    with pytest.raises(ValueError, match=r"attention has shape \(6, 2\): pass \(n\), n = 6"):
        gp.Cues(x, attention=torch.rand(6, 2))
    with pytest.raises(KeyError, match="declare it in the method's needs"):
        gp.Cues(x)[CLS]
    with pytest.raises(ValueError, match=r"Attention\(kind='cls'.*\) holds NaN or infinity, first in row 2"):
        gp.select("cls", gp.Cues(x, more={CLS: torch.tensor([0, 1, torch.nan, 1, 1, 1])}), 2)


def test_a_tower_without_a_class_token_is_refused_with_the_methods_that_run() -> None:
    for family in CORE:
        if family not in ("llava", "internvl"):
            with pytest.raises(
                ValueError, match=rf"ClsTopK .*{family}.* no class token .* can: greedyprune, divprune, "
            ):
                gp.prune(tiny(family).model, "cls", 4)
    vision = tower(model_type="siglip_vision_model", image_size=24, patch_size=6)
    text = decoder(model_type="llama")
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE))
    with pytest.raises(ValueError, match="no class token that attends to patches"):
        gp.prune(model, "cls", 4)
    with (
        gp.prune(MODEL, "cls", 4) as handle,
        pytest.raises(ValueError, match="use at=Layer"),
        handle.using("fastv", at=gp.Input()),
    ):
        raise AssertionError("never entered")


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(0)], ids=str)
def test_before_the_first_layer_nobody_has_looked_back(at) -> None:
    match = r"cannot run at '.*' here: the last prompt token's .* use at=Layer\(1\) or later. Methods that can: greedy"
    for method in (gp.FastV(), Last(choose=noting([], LAST))):
        with pytest.raises(ValueError, match=match) as error:
            gp.prune(MODEL, method, 4, at=at)
        assert not re.search(r"\bfastv\b", str(error.value))
        assert "cls" in str(error.value)
    whose = {RATERS: "the text raters' attention", Keys("decoder"): "a token's key", TEXT_KEYS: "a token's key"}
    for need, words in whose.items():
        with pytest.raises(ValueError, match=rf"{words} comes from a decoder layer before the cut, so use at="):
            gp.prune(MODEL, asking([], need, at), 4)


@pytest.mark.parametrize(
    ("need", "match"),
    [
        (Attention("cls", 3), "has 3 layers and no layer 3"),
        (Attention("cls", -4), "has 3 layers and no layer -4"),
        (Attention("last_text", 2), "decoder layer 2 does not run before the cut, layers 0 to 1 do"),
        (Attention("last_text", -1), "decoder layer -1 does not run before the cut"),
        (Attention("raters", 2), "decoder layer 2 does not run before the cut"),
        (Keys("decoder", 3), "decoder layer 3 does not run before the cut"),
        (
            Attention("eyes"),
            r"kind='eyes'.* names a kind of attention that is not known, only tower, cls, received, last_",
        ),
    ],
    ids=str,
)
def test_layers_that_are_not_there_are_refused(need, match) -> None:
    with pytest.raises(ValueError, match=match):
        gp.prune(MODEL, asking([], need, gp.Layer(2)), 4)


@pytest.mark.parametrize(("feature", "layer"), [([-2, -1], 2), ([-3, 1], 0), ([-1], 2), ([2, -3], 1)])
def test_of_several_layers_for_the_projector_the_deepest_is_read(feature, layer) -> None:
    made = fresh("llava")
    made.model.config.vision_feature_layer = feature
    assert placed(find_parts(made.model), CLS) == replace(CLS, layer=layer)
    made.model.config.vision_feature_layer = 0
    with pytest.raises(ValueError, match=r"vision_feature_layer=0, so name one: Attention\(.*layer=-2"):
        gp.prune(made.model, "cls", 4)
    gp.prune(made.model, asking([], replace(CLS, layer=1), gp.Input()), 4).remove()


def test_an_unknown_decoder_is_refused() -> None:
    vision = tower(model_type="clip_vision_model", image_size=24, patch_size=6)
    text = decoder(model_type="olmo2")
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE))
    with pytest.raises(ValueError, match="attention weights of a 'olmo2' decoder are not known here, only of llama"):
        gp.prune(model, "fastv", 4)
    for need in (RATERS, Keys("decoder"), TEXT_KEYS):
        with pytest.raises(ValueError, match="of a 'olmo2' decoder are not known here"):
            gp.prune(model, asking([], need, gp.Layer(2)), 4)
    gp.prune(model, "greedyprune", 4).remove()
