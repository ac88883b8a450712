"""Coordinate tokens against plain sums of cosines and sines, and as `protect=`."""

from __future__ import annotations

import math

import pytest
import torch

import greedyprune as gp
from proofs import CASES, forward
from tiny import tiny


def book(first: int, n: int, theta: list[float], share: float) -> list[int]:
    """The tokens of an image that begins at this position."""
    places = [first + i for i in range(n)]
    found: set[int] = set()
    for turn in (math.cos, math.sin):
        worth = [sum(turn(m * each) for each in theta) for m in places]
        found |= set(sorted(range(n), key=lambda i: -worth[i])[: round(n * share)])
    return sorted(found)


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0, 0.0])
def test_they_are_where_the_sums_are_largest(share: float) -> None:
    model, inputs = tiny("llava").model, tiny("llava").prompt(CASES[2].rows)
    theta = model.model.language_model.rotary_emb.inv_freq.double().tolist()
    spans = gp.images(model, inputs)
    found = gp.coordinate_tokens(model, inputs, share)
    mask = inputs["attention_mask"]
    for span, tokens in zip(spans, found, strict=True):
        first = int(mask[span.row, : int(span.columns[0])].sum())
        assert tokens == book(first, span.n, theta, share)
    doubled = gp.coordinate_tokens(model, inputs, share, (mask.cumsum(1) - 1).clamp_min(0))
    assert doubled == found


def test_they_are_protected_with_any_method() -> None:
    model, inputs = tiny("llava").model, tiny("llava").prompt(CASES[2].rows)
    protect = gp.coordinate_tokens(model, inputs, 0.2)
    assert all(protect)
    with gp.prune(model, "divprune", "1/2", protect=protect) as handle:
        forward(model, inputs)
        for selection, tokens in zip(handle.selections, protect, strict=True):
            assert set(tokens) <= set(selection.rows.tolist())


def test_several_axes_take_the_model_s_own_positions_and_bad_input_is_refused() -> None:
    model, inputs = tiny("qwen2_vl").model, tiny("qwen2_vl").prompt(CASES[2].rows)
    with pytest.raises(ValueError, match="numbers positions along several axes: pass positions="):
        gp.coordinate_tokens(model, inputs)
    plain = torch.arange(inputs["input_ids"].shape[1]).expand(3, *inputs["input_ids"].shape)
    assert len(gp.coordinate_tokens(model, inputs, 0.2, plain)) == len(gp.images(model, inputs))
    with pytest.raises(ValueError, match=r"positions has shape \(3, 2\)"):
        gp.coordinate_tokens(model, inputs, 0.2, torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"share=2 is no share of an image's tokens"):
        gp.coordinate_tokens(model, inputs, 2)
