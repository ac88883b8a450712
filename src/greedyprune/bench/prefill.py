"""The time of a prefill: dense, pruned, and the oracle, which never had the tokens that were dropped.

The three run in random order within each round, on the same weights, and get the same vision features, which are
computed before. What is compared are the medians of the rounds' ratios. Every call makes a new KV cache; one step of
decoding behind it is timed, too.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.bench.clock import median_of, timed
from greedyprune.bench.compared import SIDES, Case, First, Ratios, case_of, milliseconds, ratios_of
from greedyprune.bench.memory import first_of
from greedyprune.bench.trio import Trio, trio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greedyprune.policy import Policy

ROUNDS = 20


@dataclass(frozen=True, kw_only=True)
class Row(Ratios, First, Case):
    """One measured prefill."""

    hooks_ms: float
    """Time in this library's hooks, choosing included; on CUDA the CPU time of the calling thread."""
    hooks_of_dense: float
    """hooks / dense, and / pruned, medians."""
    hooks_of_pruned: float
    select_ms: float
    """Time of choosing."""
    select_of_dense: float
    select_of_pruned: float
    vision_ms: float
    """Time of the vision tower and the projector, which pruning leaves as it is."""
    dense_step_ms: float
    """Time of one step of decoding behind the prompt."""
    pruned_step_ms: float
    flops_ratio: float
    """FLOPs of the decoder, dense / pruned."""


@torch.no_grad()
def run(three: Trio, rounds: int, seed: int = 0) -> dict[str, Tensor]:
    """Time all of them in every round, in random order. -> seconds (rounds,) float64 by name"""
    order, names = random.Random(seed), (*SIDES, "vision")
    times: dict[str, list[float]] = defaultdict(list)
    device = three.calls["dense"].model.device
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            if name == "vision":
                times[name].append(timed(three.encode, device)[1])
                continue
            call, three.clock.seconds = three.calls[name], 0.0
            output, seconds = timed(call.prefill, device)
            times[name].append(seconds)
            if name == "pruned":
                times["hooks"].append(three.clock.seconds)
                times["select"].append(three.handle.report().select_ms / 1e3)
            if name != "oracle":
                times[f"{name} step"].append(timed(partial(call.step, output), device)[1])
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in times.items()}


@torch.no_grad()
def measure(
    model: Any, inputs: Mapping[str, Tensor], policy: Policy, *, name: str = "", rounds: int = ROUNDS, seed: int = 0
) -> Row:
    """Measure the prefill of a batch of prompts without padding. The model is not changed.

        row = measure(model, inputs, Policy("greedyprune", 64, "layer:2"))
        row.speedup, row.share

    Raises Unmeasurable, a ValueError, if the model has no oracle.
    """
    with trio(model, inputs, policy) as three:
        first, outputs = first_of(three.calls)  # whose time is not counted
        for side in ("dense", "pruned"):
            three.calls[side].step(outputs[side])
        outputs.clear()
        times, report = run(three, rounds, seed), three.handle.report()
    hooks, select = times["hooks"], times["select"]
    return Row(
        **case_of(model, name, report, inputs["input_ids"].shape[0]),
        **ratios_of(times),
        **first,
        hooks_ms=milliseconds(hooks),
        hooks_of_dense=median_of(hooks / times["dense"])[0],
        hooks_of_pruned=median_of(hooks / times["pruned"])[0],
        select_ms=milliseconds(select),
        select_of_dense=median_of(select / times["dense"])[0],
        select_of_pruned=median_of(select / times["pruned"])[0],
        vision_ms=milliseconds(times["vision"]),
        dense_step_ms=milliseconds(times["dense step"]),
        pruned_step_ms=milliseconds(times["pruned step"]),
        flops_ratio=round(report.prefill_flops_full / report.prefill_flops, 3),
    )


def whole(row: Row, generated: int) -> tuple[float, float]:
    """The prefill's share of a run that generates so many tokens, vision included, and the run's expected speed-up.

    Steps of decoding count as the first one took, dense and pruned.
    """
    steps = max(generated - 1, 0)
    dense = row.vision_ms + row.dense_ms + steps * row.dense_step_ms
    pruned = row.vision_ms + row.pruned_ms + steps * row.pruned_step_ms
    return row.dense_ms / dense, dense / pruned
