"""Memory of a prefill: dense, pruned, and the oracle, in bytes above the weights and the inputs.

The bound of a pruned prefill is the oracle's peak and the embeddings of the whole prompt, which the oracle never makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from greedyprune.attach.forward.cache import bytes_of
from greedyprune.bench.compared import Case, First, case_of
from greedyprune.bench.peak import peak_of
from greedyprune.bench.trio import trio
from greedyprune.models.release import cache_of

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.bench.calls import Call
    from greedyprune.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Row(First, Case):
    """The memory of one prefill."""

    weights_bytes: int


@torch.no_grad()
def first_of(calls: Mapping[str, Call]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Prefill once on every side. -> the fields of a `First`, and the outputs by side"""
    outputs: dict[str, Any] = {}
    peaks: dict[str, int] = {}
    for side, call in calls.items():
        outputs[side], peaks[side] = peak_of(call.prefill, call.model.device)
    ours, ideal = (outputs[side].logits.float() for side in ("pruned", "oracle"))
    gap = float((ours - ideal).abs().max())
    dense = calls["dense"]
    ids, width = dense.inputs["input_ids"], dense.model.get_input_embeddings().weight
    whole = ids.numel() * width.shape[1] * width.element_size()
    return {
        **{f"{side}_cache_bytes": bytes_of(cache_of(output))[0] for side, output in outputs.items()},
        **{f"{side}_peak_bytes": peak for side, peak in peaks.items()},
        "embeddings_bytes": whole,
        "within_bound": peaks["pruned"] <= peaks["oracle"] + whole,
        "error": gap,
        "equal": gap == 0.0,
    }, outputs


@torch.no_grad()
def measure(model: Any, inputs: Mapping[str, Tensor], policy: Policy, *, name: str = "") -> Row:
    """Measure the memory of a prefill of a batch of prompts without padding. The model is not changed.

        row = measure(model, inputs, Policy("greedyprune", 64, "layer:2"))
        row.dense_peak_bytes, row.pruned_peak_bytes, row.oracle_peak_bytes

    Raises Unmeasurable, a ValueError, if the model has no oracle.
    """
    weights = sum(weight.nbytes for weight in model.parameters())
    with trio(model, inputs, policy) as three:
        found, _ = first_of(three.calls)
        report = three.handle.report()
    return Row(**case_of(model, name, report, inputs["input_ids"].shape[0]), **found, weights_bytes=weights)
