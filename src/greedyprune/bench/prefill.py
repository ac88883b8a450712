"""The time of a prefill: dense, pruned, and the oracle, which never had the tokens that were dropped.

The three run in random order within each round, on the same weights, and get the same vision features, which are
computed before. What is compared are the medians of the rounds' ratios. Every call makes a new KV cache; one step of
decoding behind it is timed, too.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.attach.forward.cache import Held, bytes_of
from greedyprune.attach.handle import Pruned, prune
from greedyprune.bench.calls import FEATURES, Call, Unmeasurable, check_release, encoder
from greedyprune.bench.clock import clock_name, median_of, timed
from greedyprune.bench.hooks import same_weights
from greedyprune.bench.oracle import check_stage, oracle
from greedyprune.models._front import own_hooks
from greedyprune.models.parts import find_parts
from greedyprune.models.release import cache_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greedyprune.ops.cut import Cut
    from greedyprune.policy import Policy
    from greedyprune.selection import Report

ROUNDS = 20
SIDES = ("dense", "pruned", "oracle")


@dataclass(frozen=True)
class Row:
    """One measured case. Times are medians in milliseconds; `low` and `high` bound 95 % intervals."""

    model: str
    method: str
    at: str
    layers: int
    width: int
    dtype: str
    device: str
    clock: str
    """The time that was measured: process CPU time, or on CUDA the device's."""
    batch: int
    images: int
    """Images of each prompt."""
    tokens: int
    """Visual tokens of each prompt."""
    kept: int
    sequence: int
    """Tokens of each prompt, text included."""
    sequence_kept: int
    dense_ms: float
    pruned_ms: float
    oracle_ms: float
    speedup: float
    """dense / pruned, median of the rounds' ratios."""
    speedup_low: float
    speedup_high: float
    oracle_speedup: float
    oracle_speedup_low: float
    oracle_speedup_high: float
    share: float
    """(dense - pruned) / (dense - oracle): the part of the oracle's saving that is reached."""
    share_low: float
    share_high: float
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
    rounds: int
    threads: int

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


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
        dense, pruned = Call(bare, given), Call(model, given)
        cut = _cut(pruned.prefill())
        calls = {"dense": dense, "pruned": pruned, "oracle": oracle(bare, dense, cut, policy.on(len(parts.layers)).at)}
        yield Trio(calls, encoder(find_parts(bare), inputs)[0], handle, HookClock(model))


def _cut(output: Any) -> Cut:
    """The cut that a pruned prefill made."""
    cut = Held.by(cache := cache_of(output)).cut_at(len(cache.layers) - 1)
    if cut is None or not cut.dropped:
        raise Unmeasurable("nothing is dropped, so there is nothing to compare: lower --keep.")
    return cut


@dataclass(eq=False)
class Times:
    """Seconds by round."""

    sides: dict[str, list[float]]
    steps: dict[str, list[float]]
    vision: list[float]
    hooks: list[float]
    select: list[float]

    def of(self, name: str) -> Tensor:
        """Of one side's prefill. -> (rounds,) float64"""
        return torch.tensor(self.sides[name], dtype=torch.float64)


@torch.no_grad()
def run(three: Trio, rounds: int, seed: int = 0) -> Times:
    """Time all of them in every round, in random order."""
    order, names = random.Random(seed), (*SIDES, "vision")
    times = Times({name: [] for name in SIDES}, {name: [] for name in SIDES}, [], [], [])
    device = three.calls["dense"].model.device
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            if name == "vision":
                times.vision.append(timed(three.encode, device)[1])
                continue
            call, three.clock.seconds = three.calls[name], 0.0
            output, seconds = timed(call.prefill, device)
            times.sides[name].append(seconds)
            if name == "pruned":
                times.hooks.append(three.clock.seconds)
                times.select.append(three.handle.report().select_ms / 1e3)
            if name != "oracle":
                times.steps[name].append(timed(lambda call=call, output=output: call.step(output), device)[1])
    return times


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
    return _row(model, name, inputs, policy, report, times, held, gap)


def _row(
    model: Any,
    name: str,
    inputs: Mapping[str, Tensor],
    policy: Policy,
    report: Report,
    times: Times,
    held: Mapping[str, int],
    gap: float,
) -> Row:
    text, batch = find_parts(model).text.config, inputs["input_ids"].shape[0]
    dense, pruned, ideal = times.of("dense"), times.of("pruned"), times.of("oracle")
    hooks, select = torch.tensor(times.hooks, dtype=torch.float64), torch.tensor(times.select, dtype=torch.float64)
    speedup, ideal_speedup = median_of(dense / pruned), median_of(dense / ideal)
    share = median_of((dense - pruned) / (dense - ideal))
    return Row(
        model=name or str(model.config.model_type),
        method=report.method,
        at=report.at,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        dtype=str(model.dtype).removeprefix("torch."),
        device=_device(model.device),
        clock=clock_name(model.device),
        batch=batch,
        images=report.images // batch,
        tokens=report.tokens // batch,
        kept=report.kept // batch,
        sequence=report.sequence,
        sequence_kept=report.sequence_kept,
        dense_ms=_ms(dense),
        pruned_ms=_ms(pruned),
        oracle_ms=_ms(ideal),
        speedup=speedup[0],
        speedup_low=speedup[1],
        speedup_high=speedup[2],
        oracle_speedup=ideal_speedup[0],
        oracle_speedup_low=ideal_speedup[1],
        oracle_speedup_high=ideal_speedup[2],
        share=share[0],
        share_low=share[1],
        share_high=share[2],
        hooks_ms=_ms(hooks),
        hooks_of_dense=median_of(hooks / dense)[0],
        hooks_of_pruned=median_of(hooks / pruned)[0],
        select_ms=_ms(select),
        select_of_dense=median_of(select / dense)[0],
        select_of_pruned=median_of(select / pruned)[0],
        vision_ms=_ms(torch.tensor(times.vision)),
        dense_step_ms=_ms(torch.tensor(times.steps["dense"])),
        pruned_step_ms=_ms(torch.tensor(times.steps["pruned"])),
        dense_cache_bytes=held["dense"],
        pruned_cache_bytes=held["pruned"],
        oracle_cache_bytes=held["oracle"],
        flops_ratio=round(report.prefill_flops_full / report.prefill_flops, 3),
        error=gap,
        equal=gap == 0.0,
        rounds=len(dense),
        threads=torch.get_num_threads(),
    )


def _ms(seconds: Tensor) -> float:
    return round(1e3 * float(seconds.quantile(0.5)), 3)


def _device(device: torch.device) -> str:
    """The device, on CUDA with its name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def whole(row: Row, generated: int) -> tuple[float, float]:
    """The prefill's share of a run that generates so many tokens, vision included, and the run's expected speed-up.

    Steps of decoding count as the first one took, dense and pruned.
    """
    steps = max(generated - 1, 0)
    dense = row.vision_ms + row.dense_ms + steps * row.dense_step_ms
    pruned = row.vision_ms + row.pruned_ms + steps * row.pruned_step_ms
    return row.dense_ms / dense, dense / pruned
