"""FLOPs from a config are those that torch counts when the decoder runs, pruned or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import greedyprune as gp
import tiny
from greedyprune.models.flops import Sizes, decode_flops, prefill_flops
from greedyprune.models.release import cache_of, cached


def counted(model: Any, work: Any) -> int:
    """The FLOPs of the decoder layers and the logits; those of the rotary table are left out."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        work()
    found = counter.get_flop_counts()
    top = type(model).__name__
    modules = [
        name for name in found if name == f"{top}.lm_head" or name.rpartition(".")[0].endswith("language_model.layers")
    ]
    assert len(modules) == 1 + len(model.get_decoder().layers)
    return sum(sum(found[name].values()) for name in modules)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_a_prompt_and_a_step_cost_what_torch_counts(family: str) -> None:
    made = tiny.tiny(family, "eager")
    model, inputs = made.model, made.prompt(((1,),))
    length, layers = inputs["input_ids"].shape[1], len(model.get_decoder().layers)
    held: list[Any] = []
    work = lambda: held.append(model(**inputs, use_cache=True, logits_to_keep=1))  # noqa: E731
    assert counted(model, work) == prefill_flops(model.config, [length] * layers)
    token = made.continued(inputs, torch.cat([inputs["input_ids"], torch.tensor([[7]])], 1))
    more = {"attention_mask": token["attention_mask"], **cached(model, cache_of(held[0]))}
    if "qwen" in family:  # which counts anew from the mask otherwise
        more["position_ids"] = torch.full((3, 1, 1), length)
    step = lambda: model(input_ids=torch.tensor([[7]]), **more)  # noqa: E731
    assert counted(model, step) == decode_flops(model.config, [length] * layers)


@pytest.mark.parametrize(("at", "start"), [(gp.Input(), 0), (gp.Layer(2), 2), (gp.Layer(3), 3)], ids=str)
def test_a_pruned_prompt_costs_what_its_layers_see(at: gp.Stage, start: int) -> None:
    made = tiny.tiny("llava", "eager")
    model, inputs = made.model, made.prompt(((1,),))
    text = inputs["input_ids"].shape[1] - 16
    visual = [16] * start + [4] * (4 - start)
    lengths = [text + n for n in visual]
    with gp.prune(model, "random", 4, at=at) as pruned:
        found = counted(model, lambda: model(**inputs, use_cache=True, logits_to_keep=1))
        report = pruned.report()
        assert report.layer_averaged == sum(visual) / 4
        assert pruned.selections[0].per_layer == tuple(visual)
    assert report.prefill_flops == found
    assert report.prefill_flops_full == prefill_flops(model.config, [text + 16] * 4)
    assert report.decode_flops == decode_flops(model.config, lengths)
    assert report.decode_flops_full == decode_flops(model.config, [text + 16] * 4)
    assert found == prefill_flops(model.config, lengths)
    assert found < prefill_flops(model.config, [text + 16] * 4)


BATCH = ((0,), (1,))
PLACES = [gp.Input(), gp.Layer(2), gp.Layer(2, early=True)]


def step_of(model: Any, cache: Any, length: int, rows: int) -> int:
    """The FLOPs of one new token of every prompt, as torch counts them."""
    ids, mask = torch.full((rows, 1), 7), torch.ones(rows, length + 1, dtype=torch.int64)
    return counted(model, lambda: model(input_ids=ids, attention_mask=mask, **cached(model, cache), use_cache=True))


@pytest.mark.parametrize("at", PLACES, ids=str)
def test_a_batch_costs_what_all_its_prompts_cost(at: gp.Stage) -> None:
    made = tiny.tiny("llava", "eager")
    model, inputs = made.model, made.prompt(BATCH)
    rows, length = inputs["input_ids"].shape
    held: list[Any] = []
    work = lambda: held.append(model(**inputs, use_cache=True, logits_to_keep=1))  # noqa: E731
    whole, whole_step = counted(model, work), step_of(model, cache_of(held[0]), length, rows)
    with gp.prune(model, "random", 4, at=at) as pruned:
        found = counted(model, work)
        report = pruned.report()
        step = step_of(model, cache_of(held[1]), length, rows)
    assert (report.prefill_flops_full, report.decode_flops_full) == (whole, whole_step)
    assert (report.prefill_flops, report.decode_flops) == (found, step)
    assert found < whole
    assert step < whole_step


@pytest.mark.parametrize("at", PLACES, ids=str)
def test_a_later_turn_costs_what_its_layers_see_of_the_first_one_too(at: gp.Stage) -> None:
    made = tiny.tiny("llava", "eager")
    model, first, second = made.model, made.prompt(BATCH), made.prompt(BATCH[::-1])
    rows, length = first["input_ids"].shape
    held: list[Any] = []

    def turns() -> int:
        held.append(model(**first, use_cache=True, logits_to_keep=1))
        mask = torch.cat([first["attention_mask"], second["attention_mask"]], 1)
        more = {**second, "attention_mask": mask, **cached(model, cache_of(held[-1]))}
        return counted(model, lambda: held.append(model(**more, use_cache=True, logits_to_keep=1)))

    with torch.inference_mode():
        whole = turns()
        whole_step = step_of(model, cache_of(held[-1]), 2 * length, rows)
        with gp.prune(model, "random", 4, at=at) as pruned:
            found = turns()
            report = pruned.report()
            step = step_of(model, cache_of(held[-1]), 2 * length, rows)
    assert (report.prefill_flops_full, report.decode_flops_full) == (whole, whole_step)
    assert (report.prefill_flops, report.decode_flops) == (found, step)
    assert found < whole
    assert step < whole_step


@pytest.mark.parametrize("kept", [2, 12])
def test_the_printed_shares_are_those_that_are_saved(kept: int) -> None:
    """-80 % where a fifth is left, and not -20 %."""
    made = tiny.tiny("llava")
    with gp.prune(made.model, "random", kept, at=gp.Input()) as pruned, torch.inference_mode():
        made.model(**made.prompt(((1,),)), use_cache=True)
        report = pruned.report()
    cache = round(100 - 100 * report.cache_bytes / report.cache_bytes_full)
    flops = round(100 - 100 * report.prefill_flops / report.prefill_flops_full)
    assert f"prompt FLOPs -{flops} %, KV -{cache} %, selector" in str(report)
    length = made.prompt(((1,),))["input_ids"].shape[1]
    assert cache == round(100 * (16 - kept) / length)
    assert 100 - cache != cache
    assert 100 - flops != flops
    assert "no KV cache" in str(replace(report, cache_bytes_full=0))


def test_sizes_of_older_configs_follow_from_the_width() -> None:
    class Old:
        hidden_size, num_attention_heads, intermediate_size, vocab_size = 64, 4, 128, 100

    assert Sizes.of(Old()) == Sizes(64, 4, 4, 16, 128, 100)


def test_the_widths_of_equal_layers_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config is slow to read, and every prompt is counted."""
    made, read, own = tiny.tiny("llava"), list[int](), Sizes.of

    def watched(config: Any, layer: int = 0) -> Sizes:
        read.append(layer)
        return own(config, layer)

    monkeypatch.setattr(Sizes, "of", watched)
    prefill_flops(made.model.config, [64] * 40 + [8] * 40)
    decode_flops(made.model.config, list(range(80)))
    assert read == [0, 0]
