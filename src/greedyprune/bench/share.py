"""The CPU time of all of this library's code inside a call, as a share of the dense prefill and of the pruned one.

Each case is a model of a real shape with random weights, and image-like features in the place of its vision tower's.
The dense prefill of a case runs once in each round, for all policies. The hooks are timed inside the pruned call, so
other work on the machine moves their share of it least.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from greedyprune.bench.clock import median_of, threads_set, timed
from greedyprune.bench.compared import Case, First, case_of, milliseconds
from greedyprune.bench.features import image_like
from greedyprune.bench.hooks import same_weights
from greedyprune.bench.memory import first_of
from greedyprune.bench.shapes import build, config_of
from greedyprune.bench.trio import Trio, trio
from greedyprune.policy import Policy
from greedyprune.registry import DEFAULT

Write = Callable[[Any, int, int], Mapping[str, Tensor]]
"""A model, the side of a picture in pixels and a batch size -> so many equal prompts of one picture."""
METHODS = (DEFAULT, "greedyprune")
PLACES = ("input", "layer:2")
ROUNDS = 5


@dataclass(frozen=True)
class Shape:
    """A model of `shapes.SHAPES`, and the prompts that it reads."""

    name: str
    side: int
    """Pixels of the pictures, both ways."""
    keeps: tuple[int, ...]
    batches: tuple[int, ...]
    layers: int | None = None
    """Decoder layers; None for all."""


SHAPES = (Shape("llava-small", 336, (64, 192), (1, 4)), Shape("qwen2.5-vl-small", 896, (128,), (1,)))
"""576 visual tokens and 12 layers, and 1024 visual tokens, M-RoPE and 8 layers, both 1024 wide."""


@dataclass(frozen=True, kw_only=True)
class Row(First, Case):
    """One measured case."""

    dense_ms: float
    """Process CPU time, or on CUDA the device's; medians."""
    pruned_ms: float
    hooks_ms: float
    """CPU time in this library's hooks, choosing included: of the calling thread if torch has one, else of all."""
    hooks_of_dense: float
    """hooks / dense of the same round, median; `low` and `high` bound its 95 % interval."""
    hooks_of_dense_low: float
    hooks_of_dense_high: float
    hooks_of_pruned: float
    """hooks / pruned of the same call, median."""
    hooks_of_pruned_low: float
    hooks_of_pruned_high: float
    select_ms: float
    """Time of choosing, a part of that in hooks."""
    rounds: int


def measure(
    write: Write,
    shapes: tuple[Shape, ...] = SHAPES,
    *,
    rounds: int = ROUNDS,
    threads: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Iterator[Row]:
    """Measure every shape, batch, method, place and budget. The thread count is put back at the end."""
    with threads_set(threads):
        for shape in shapes:
            model = build(config_of(shape.name, shape.layers), torch.device(device), dtype, seed)
            for batch in shape.batches:
                yield from _cases(model, shape, write(model, shape.side, batch), rounds, seed)


@torch.no_grad()
def _cases(model: Any, shape: Shape, inputs: Mapping[str, Tensor], rounds: int, seed: int) -> list[Row]:
    """All policies on one model and batch. They run in turn, in random order within a round."""
    policies = [
        Policy(method, keep, at)  # pyright: ignore[reportArgumentType] - texts are read
        for method in METHODS
        for at in PLACES
        for keep in shape.keeps
    ]
    with ExitStack() as stack:
        trios = _opened(stack, model, inputs, policies, seed)
        firsts = [first_of(three.calls)[0] for three in trios]
        times = _timed(trios, rounds, seed)
        reports = [three.handle.report() for three in trios]
    return [
        Row(**case_of(model, shape.name, report, inputs["input_ids"].shape[0]), **first, **_shares(mine), rounds=rounds)
        for report, first, mine in zip(reports, firsts, times, strict=True)
    ]


def _opened(
    stack: ExitStack, model: Any, inputs: Mapping[str, Tensor], policies: list[Policy], seed: int
) -> list[Trio]:
    """A trio for every policy, each on a model of its own with the same weights. Oracles are tried once per place."""
    tried: set[str] = set()
    found: list[Trio] = []
    for policy in policies:
        fresh = same_weights(model)
        found.append(
            stack.enter_context(
                trio(fresh, inputs, policy, features=lambda x: with_rows(x, seed), tried=policy.place not in tried)
            )
        )
        tried.add(policy.place)
    return found


def with_rows(encoded: Any, seed: int) -> Any:
    """Vision features with image-like rows in the place of their own, other ones for each image."""
    made, rows = copy.copy(encoded), encoded.pooler_output
    fresh = [
        image_like(each.shape[-2], each.shape[-1], seed + number)[0].to(each).view_as(each)
        for number, each in enumerate(rows)
    ]
    made.pooler_output = torch.stack(fresh) if isinstance(rows, Tensor) else type(rows)(fresh)
    return made


def _timed(trios: list[Trio], rounds: int, seed: int) -> list[dict[str, Tensor]]:
    """Seconds of the dense prefill, of each pruned one, in its hooks and of choosing. -> by policy, (rounds,) each"""
    order, dense = random.Random(seed), trios[0].calls["dense"]
    device = dense.model.device
    times: list[dict[str, list[float]]] = [defaultdict(list) for _ in trios]
    for _ in range(rounds):
        whole = timed(dense.prefill, device)[1]
        for number in order.sample(range(len(trios)), len(trios)):
            three, mine = trios[number], times[number]
            three.clock.seconds = 0.0
            mine["pruned"].append(timed(three.calls["pruned"].prefill, device)[1])
            mine["hooks"].append(three.clock.seconds)
            mine["select"].append(three.handle.report().select_ms / 1e3)
            mine["dense"].append(whole)
    return [{name: torch.tensor(each, dtype=torch.float64) for name, each in mine.items()} for mine in times]


def _shares(times: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of a row that are times or shares of them."""
    found: dict[str, Any] = {f"{name}_ms": milliseconds(times[name]) for name in ("dense", "pruned", "hooks", "select")}
    for side in ("dense", "pruned"):
        middle, low, high = median_of(times["hooks"] / times[side])
        found |= {
            f"hooks_of_{side}": middle,
            f"hooks_of_{side}_low": low,
            f"hooks_of_{side}_high": high,
        }
    return found
