"""What is planned is what a run reports: tokens, cache bytes and FLOPs, on models without weights as on real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

import greedyprune as gp
from greedyprune.bench.planned import planned
from tiny import tiny

SHARED = [
    "at",
    "tokens",
    "kept",
    "images",
    "sequence",
    "sequence_kept",
    "layers",
    "cache_bytes",
    "cache_bytes_full",
    "prefill_flops",
    "prefill_flops_full",
    "decode_flops",
    "decode_flops_full",
]
POLICIES = {
    "input": gp.Policy("divprune", gp.Ratio(0.25)),
    "layer": gp.Policy("saliency", 3, gp.Layer(1)),
    "early": gp.Policy("saliency", 3, gp.Layer(1, early=True)),
    "list": gp.Policy("divprune", [2, gp.Ratio(0.5)]),
    "total": gp.Policy("divprune", gp.Total(5)),
    "average": gp.Policy("saliency", gp.LayerAverage(gp.Ratio(0.75)), gp.Layer(1)),
    "pool": gp.Policy("pool", 3),
}

BY_ENCODER = ("gemma4 shared keys",)
"""Families whose encoder alone knows how many tokens an image has."""


def without_weights(model: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(model.config)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3 short window", "gemma4 shared keys"])
def test_a_plan_is_what_the_report_says(family: str) -> None:
    case = tiny(family)
    inputs = case.prompt(((0, 1),))
    ran = 0
    for policy in POLICIES.values():
        if policy.method.merges and not case.has_grid:
            continue
        try:
            pruned = gp.prune(case.model, policy)
        except NotImplementedError:
            continue  # a decoder with shared keys is cut at one place, a sliding window gives back nothing
        with pruned:
            case.model(**inputs, use_cache=True)
            report = pruned.report()
        counted = [case.model] if family in BY_ENCODER else [case.model, without_weights(case.model)]
        for model in counted:
            found = planned(model, inputs, policy, torch.float32)
            assert {each: getattr(found, each) for each in SHARED} == {each: getattr(report, each) for each in SHARED}
            assert found.known
            ran += 1
    assert ran >= len(POLICIES) // 2
