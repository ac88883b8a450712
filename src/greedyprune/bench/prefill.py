"""The time of a prefill: dense, pruned, and the oracle, which never had the tokens that were dropped.

The three run in random order within each round, on the same weights, and get the same vision features, which are
computed before. What is compared are the medians of the rounds' ratios. Every call makes a new KV cache; one step of
decoding behind it is timed, too.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.attach.forward.cache import Held, bytes_of
from greedyprune.attach.handle import Pruned, prune
from greedyprune.bench.calls import FEATURES, Call, Unmeasurable, check_release, encoder
from greedyprune.bench.clock import median_of, timed
from greedyprune.bench.compared import SIDES, Case, Ratios, case_of, milliseconds, ratios_of
from greedyprune.bench.hooks import same_weights
from greedyprune.bench.oracle import check_stage, oracle
from greedyprune.models._front import own_hooks
from greedyprune.models.parts import find_parts
from greedyprune.models.release import cache_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greedyprune.ops.cut import Cut
    from greedyprune.policy import Policy

ROUNDS = 20


@dataclass(frozen=True, kw_only=True)
class Row(Ratios, Case):
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
    dense_cache_bytes: int
    pruned_cache_bytes: int
    oracle_cache_bytes: int
    flops_ratio: float
    """FLOPs of the decoder, dense / pruned."""
    error: float
    """The largest difference between logits of the pruned model and of the oracle."""
    equal: bool
    """True if these logits are equal bit for bit."""


class HookClock:
    """Adds up the time inside this library's hooks on a model, as long as they stay attached."""

    def __init__(self, model: Any) -> None:
        self.seconds = 0.0
        now = time.thread_time if model.device.type == "cuda" else time.process_time
        for hooks, key in list(own_hooks(model)):
            hooks[key] = self._watched(hooks[key], now)

    def _watched(self, hook: Callable[..., Any], now: Callable[[], float]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            begun = now()
            try:
                return hook(*args, **kwargs)
            finally:
                self.seconds += now() - begun

        return watched


@dataclass(frozen=True, eq=False)
class Trio:
    """The three calls, and what is measured beside them."""

    calls: Mapping[str, Call]
    encode: Callable[[], Any]
    handle: Pruned
    clock: HookClock


@contextmanager
def trio(model: Any, inputs: Mapping[str, Tensor], policy: Policy) -> Iterator[Trio]:
    """Inside, the model is pruned, and the other two run on its weights. `inputs`: a batch without padding.

    Raises Unmeasurable if this cannot be measured, and the errors of `prune`.
    """
    parts = find_parts(model)
    check_release(parts)
    if not bool(inputs["attention_mask"].all()):
        raise Unmeasurable("the prompts of the batch have different lengths: give prompts of one length.")
    bare = same_weights(model)
    with prune(model, policy) as handle:
        check_stage(parts, policy.on(len(parts.layers)).at)
        encode, rest = encoder(parts, inputs)  # while the model is pruned: methods may look into the vision tower
        given = {**rest, FEATURES: {"image": encode()}}
        length = inputs["input_ids"].shape[1]
        dense, pruned = Call(bare, given, length), Call(model, given, length)
        cut = _cut(pruned.prefill())
        calls = {"dense": dense, "pruned": pruned, "oracle": oracle(bare, dense, cut, policy.on(len(parts.layers)).at)}
        yield Trio(calls, encoder(find_parts(bare), inputs)[0], handle, HookClock(model))


def _cut(output: Any) -> Cut:
    """The cut that a pruned prefill made."""
    cut = Held.by(cache := cache_of(output)).cut_at(len(cache.layers) - 1)
    if cut is None or not cut.dropped:
        raise Unmeasurable("nothing is dropped, so there is nothing to compare: lower --keep.")
    return cut


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
        outputs = {side: call.prefill() for side, call in three.calls.items()}  # the first call of each is not counted
        held = {side: bytes_of(cache_of(output))[0] for side, output in outputs.items()}
        gap = float((outputs["pruned"].logits.float() - outputs["oracle"].logits.float()).abs().max())
        for side in ("dense", "pruned"):
            three.calls[side].step(outputs[side])
        outputs.clear()
        times, report = run(three, rounds, seed), three.handle.report()
    hooks, select = times["hooks"], times["select"]
    return Row(
        **case_of(model, name, report, inputs["input_ids"].shape[0]),
        **ratios_of(times),
        hooks_ms=milliseconds(hooks),
        hooks_of_dense=median_of(hooks / times["dense"])[0],
        hooks_of_pruned=median_of(hooks / times["pruned"])[0],
        select_ms=milliseconds(select),
        select_of_dense=median_of(select / times["dense"])[0],
        select_of_pruned=median_of(select / times["pruned"])[0],
        vision_ms=milliseconds(times["vision"]),
        dense_step_ms=milliseconds(times["dense step"]),
        pruned_step_ms=milliseconds(times["pruned step"]),
        dense_cache_bytes=held["dense"],
        pruned_cache_bytes=held["pruned"],
        oracle_cache_bytes=held["oracle"],
        flops_ratio=round(report.prefill_flops_full / report.prefill_flops, 3),
        error=gap,
        equal=gap == 0.0,
    )


def whole(row: Row, generated: int) -> tuple[float, float]:
    """The prefill's share of a run that generates so many tokens, vision included, and the run's expected speed-up.

    Steps of decoding count as the first one took, dense and pruned.
    """
    steps = max(generated - 1, 0)
    dense = row.vision_ms + row.dense_ms + steps * row.dense_step_ms
    pruned = row.vision_ms + row.pruned_ms + steps * row.pruned_step_ms
    return row.dense_ms / dense, dense / pruned
