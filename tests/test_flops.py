"""FLOPs from a config are those that torch counts when the decoder runs, pruned or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import greedyprune as gp
import proofs
import tiny
from greedyprune.models.flops import Sizes, decode_flops, prefill_flops


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
    more = {"attention_mask": token["attention_mask"], "past_key_values": proofs.cache_of(held[0])}
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


def test_sizes_of_older_configs_follow_from_the_width() -> None:
    class Old:
        hidden_size, num_attention_heads, intermediate_size, vocab_size = 64, 4, 128, 100

    assert Sizes.of(Old()) == Sizes(64, 4, 4, 16, 128, 100)
