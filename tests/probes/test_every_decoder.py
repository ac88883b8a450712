"""What methods read in a decoder layer, on every family: the attention, keys and values of its own eager attention."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.cues import Attention, Keys, Values
from greedyprune.models.parts import find_parts
from looks import LAST, all_near, asking, asking_all
from proofs import CASES, forward, generate
from tiny import BUILDERS, IMAGE, fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")

KINDS = ("qwen3_5", "glm4v", "kimi_k25", "cohere2_vision", "lfm2_vl", "gemma4", "ernie4_5_vl_moe", "paddleocr_vl")
"""One family for every kind of decoder that other tests do not read."""
ROUNDING = 1e-4
"""Of keys and values, which are larger than attention weights."""
NEEDS = (LAST, Keys("decoder"), Keys("decoder", of="text"), Values())


@contextmanager
def spied(model: Any) -> Iterator[dict[int, tuple[Tensor, Tensor, Tensor]]]:
    """Note keys, values and weights of each decoder layer in the last forward of an eager model."""
    found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    layers = {id(getattr(layer, "self_attn", None)): index for index, layer in enumerate(model.get_decoder().layers)}
    home: Any = sys.modules[type(find_parts(model).layers[find_parts(model).first].self_attn).__module__]
    eager = home.eager_attention_forward

    def note(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        out, weights = eager(module, query, key, value, *args, **kwargs)
        if id(module) in layers:
            found[layers[id(module)]] = key, value, weights.mean(1)
        return out, weights

    home.eager_attention_forward = note
    try:
        yield found
    finally:
        home.eager_attention_forward = eager


@pytest.mark.parametrize("family", some(BUILDERS, *KINDS))
@pytest.mark.parametrize("attention", some(proofs.ATTENTIONS, "sdpa"))
@pytest.mark.parametrize("use_cache", some([True, False], False))
def test_a_layers_attention_keys_and_values_are_its_own(family: str, attention: str, use_cache: bool) -> None:
    """With a KV cache keys and values are read behind the layer; without one they are computed again."""
    eager, made, case = tiny(family, "eager"), tiny(family, attention), CASES[2]
    inputs, kinds = made.prompt(case.rows), find_parts(made.model).kinds
    with spied(eager.model) as layers:
        forward(eager.model, inputs)
    for cut in range(1, len(kinds)):
        read = next((index for index in reversed(range(cut)) if not kinds[index].recurrent), None)
        given: list[gp.Cues] = []
        if read is None:
            with pytest.raises(ValueError, match=r"no decoder layer before 1 has attention.* use at=Layer\(2\)"):
                gp.prune(made.model, asking_all(given, NEEDS, gp.Layer(cut)), 2)
            continue
        with gp.prune(made.model, asking_all(given, NEEDS, gp.Layer(cut)), 2) as handle:
            forward(made.model, inputs, use_cache=use_cache)
            selections = handle.selections
        keys, values, weights = layers[read]
        places = proofs.image_columns(inputs["input_ids"], selections)
        for cues, selection, at in zip(given, selections, places, strict=True):
            row, columns = selection.row, at[:, 1]
            text = (inputs["attention_mask"][row].bool() & ~proofs.is_visual(inputs["input_ids"][row])).nonzero()[:, 0]
            mine = [cues[need] for need in NEEDS]
            expected = [weights[row, -1, columns]]
            expected += [rows[row].transpose(0, 1)[c] for rows, c in ((keys, columns), (keys, text), (values, columns))]
            all_near(mine, expected, ROUNDING)


@pytest.mark.parametrize("family", some(BUILDERS, "qwen3_5", "kimi_k25"))
def test_generate_reads_what_a_forward_reads(family: str) -> None:
    made = tiny(family)
    inputs = proofs.positioned(made.prompt(CASES[2].rows))
    seen: list[Tensor] = []
    with gp.prune(made.model, asking(seen, Attention("question"), gp.Layer(2)), 2):
        forward(made.model, inputs)
        generate(made.model, inputs, max_new_tokens=2)
    all_near(seen[3:], seen[:3])


def test_a_latent_cache_gives_the_keys_of_earlier_turns() -> None:
    """A decoder with latent attention caches one small vector per token, from which keys of all heads are computed."""
    eager, made, given = fresh("kimi_k25", "eager"), fresh("kimi_k25"), list[gp.Cues]()
    inputs = made.prompt(((0,), (0,)))
    images = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    length = inputs["input_ids"].shape[1]
    mask = torch.ones(2, 2 * length, dtype=torch.int64)

    def second(model: Any) -> Any:
        cache = proofs.cache_of(forward(model, inputs, use_cache=True))
        step = {"input_ids": inputs["input_ids"], "attention_mask": mask, **images}
        return forward(model, step, **{proofs.cache_name(model): cache})

    with gp.prune(made.model, asking_all(given, NEEDS, gp.Layer(2)), gp.Ratio(1.0)):
        second(made.model)
    with spied(eager.model) as layers:
        second(eager.model)
    keys, values, weights = layers[1]
    columns = (inputs["input_ids"][0] == IMAGE).nonzero()[:, 0] + length
    for row, cues in enumerate(given[2:]):
        mine = [cues[LAST], cues[Keys("decoder")], cues[Values()]]
        expected = [weights[row, -1, columns], keys[row].transpose(0, 1)[columns], values[row].transpose(0, 1)[columns]]
        all_near(mine, expected, ROUNDING)
