"""V2Drop: the lengths of changes against plain float64 loops, its released schedule, and a real decoder's states."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cases
import greedyprune as gp
from greedyprune.cues import Change
from proofs import CASES, forward
from tiny import tiny


@given(seed=st.integers(0, 5000), n=st.integers(1, 40), data=st.data())
def test_the_tokens_that_change_most_stay(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    change, _ = cases.draw("iid", n, 6, seed)
    worth = [math.sqrt(sum(float(value) ** 2 for value in row)) for row in change.double()]
    keep = gp.select("v2drop", gp.Cues(torch.zeros(n, 6), more={Change(): change}), k)
    assert keep.order.tolist() == sorted(range(n), key=lambda i: -worth[i])[:k]
    assert keep.gains.tolist() == pytest.approx([worth[i] for i in keep.order.tolist()])


def test_the_released_schedule_halves_and_ends_with_the_budget() -> None:
    assert gp.V2Drop().counts(1, 576, 3) == [288, 144, 1]
    assert gp.V2Drop().counts(64, 577, 3) == [288, 144, 64]
    assert gp.V2Drop().counts(200, 576, 3) == [288, 200, 200]
    assert gp.V2Drop().counts(0, 0, 3) == [0, 0, 0]
    assert gp.V2Drop().counts(9, 576, 1) == [9]
    assert gp.V2Drop(halving=False).counts(72, 576, 3) == [288, 144, 72]
    assert gp.V2Drop().at.of(32) == gp.Layers((3, 17, 22))  # type: ignore[attr-defined]


def test_a_decoder_shows_what_its_layer_before_the_cut_changed() -> None:
    model, inputs = tiny("llava").model, tiny("llava").prompt(CASES[2].rows)
    seen: list[torch.Tensor] = []
    layer = model.model.language_model.layers[1]
    watch = layer.register_forward_hook(
        lambda _, args, out: seen.append((out[0] if isinstance(out, tuple) else out) - args[0])
    )
    with gp.prune(model, "v2drop", 5, at=gp.Layer(2)) as handle:
        forward(model, inputs)
    watch.remove()
    lengths = seen[0].double().norm(dim=-1)
    found = [gain for selection in handle.selections for gain in selection.gains]
    every = sorted(lengths.flatten().tolist())
    for gain in found:
        assert min(abs(gain - each) for each in every) < 1e-5
