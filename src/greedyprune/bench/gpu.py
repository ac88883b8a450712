"""What a GPU is asked in one run of ten minutes: are decisions right there, and how long do selections and models take?

Four parts in the order of what matters: decisions of the device against those of the CPU; selections in a captured CUDA
graph; prefills and answers of models of real shapes with random weights, dense, pruned and oracle; and whether a whole
pruned prefill can be captured. On a CPU the same code runs, uncaptured, so that it can be tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from greedyprune.bench import generate, prefill
from greedyprune.bench.calls import Unmeasurable
from greedyprune.bench.clock import clock_name, median_of, timed
from greedyprune.bench.features import image_like
from greedyprune.bench.shapes import build, config_of
from greedyprune.choosing import select, select_batch
from greedyprune.cues import Cues
from greedyprune.methods.divprune import DivPrune
from greedyprune.methods.greedyprune import GreedyPrune
from greedyprune.methods.mmr import MMR
from greedyprune.methods.soft_greedyprune import SoftGreedyPrune
from greedyprune.naming import as_method
from greedyprune.ops.kernels import chosen
from greedyprune.ops.kernels.batch import AtOnce
from greedyprune.ops.kernels.pairs import Pairs
from greedyprune.policy import Policy
from greedyprune.registry import DEFAULT

DECIDING: Mapping[str, AtOnce] = {
    "soft_greedyprune": SoftGreedyPrune(),
    "greedyprune": GreedyPrune(),
    "greedyprune at 0.3": GreedyPrune(tau=0.3),
    "mmr": MMR(),
    "divprune": DivPrune(),
}
"""The methods that decide on a device."""
REPLAYS = 20
"""Selections that are timed as one, so that the time of a launch counts little."""
Rows = list[dict[str, object]]
Prompts = Callable[[Any], Callable[[Any], Mapping[str, Any]]]
"""Of a model: the function that writes inputs for prompts, each the numbers of its pictures."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. The default is for a GPU with 80 GB."""

    parity: tuple[tuple[int, int], ...] = ((64, 128), (324, 512), (576, 1024), (324, 64))
    """Tokens and width of the images whose decisions are compared. For more tokens than width no kernel scans."""
    seeds: int = 5
    selections: tuple[tuple[int, int, int, int], ...] = (
        *((1, 576, 64, 4096), (32, 576, 64, 4096)),
        *((1, 576, 192, 4096), (1, 2880, 320, 4096)),
    )
    """Images, and of each its tokens, kept tokens and width."""
    models: tuple[str, ...] = ("llava-1.5-7b", "qwen2.5-vl-7b")
    layers: int | None = None
    batches: tuple[int, ...] = (1, 8, 32)
    methods: tuple[str, ...] = (DEFAULT, "greedyprune", "fastv", "divprune")
    keep: int = 64
    size: tuple[int, int] = (672, 672)
    """Of the pictures, for models that do not scale them to one size."""
    generated: int = 128
    rounds: int = 7
    answers: int = 1
    """Rounds of answers."""


TINY = Plan(
    parity=((16, 32), (36, 8)), seeds=1, selections=((2, 36, 6, 48),), models=("llava-small",), layers=3,
    batches=(1,), methods=(DEFAULT, "divprune"), keep=64, generated=2, rounds=1,
)  # fmt: skip
"""A minute or two on a CPU: it shows that the command runs."""


def run(
    device: torch.device,
    plan: Plan,
    seconds: float,
    prompts: Prompts,
    say: Callable[[str], None],
    done: Callable[[str, Rows], None],
) -> dict[str, Rows]:
    """Measure everything; models share what is left of `seconds`. `done` gets a part's rows whenever there are more.

    What is left out, or fails, is a row with its reason. -> rows by part: parity, select, prefill, generate, capture
    """
    ends, found = time.monotonic() + seconds, dict[str, Rows]()
    for part, work in (("parity", parity), ("select", selections)):
        say(part)
        found[part] = list(work(device, plan))
        done(part, found[part])
    for place, name in enumerate(plan.models):
        until = time.monotonic() + (ends - time.monotonic()) / (len(plan.models) - place)
        for part, row in _of_model(name, device, plan, until, prompts, say):
            found.setdefault(part, []).append(row)
            done(part, found[part])
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def level(rows: Rows) -> Rows:
    """The same rows, each with the columns of all: those of a row that is left out are empty."""
    columns = [name for row in sorted(rows, key=len, reverse=True) for name in row]
    return [{name: row.get(name, "") for name in dict.fromkeys(columns)} for row in rows]


def engines(device: torch.device) -> list[str]:
    """Who can scan on this device: torch, and Triton if its kernels run there."""
    pairs = Pairs(torch.eye(4, dtype=torch.float64, device=device)[None])
    return ["torch"] if chosen.kernels(pairs) is None else ["triton", "torch"]


@contextmanager
def scanning(engine: str) -> Iterator[None]:
    """Inside, this engine scans."""
    before = chosen.KINDS
    try:
        chosen.KINDS = before if engine == "triton" else frozenset[str]()
        yield
    finally:
        chosen.KINDS = before


def parity(device: torch.device, plan: Plan) -> Iterator[dict[str, object]]:
    """Compare decisions of the device with the CPU's: rows and order, with and without protected tokens."""
    for engine in engines(device):
        for name, method in DECIDING.items():
            for n, d in plan.parity:
                if engine == "triton" and n > d:
                    continue
                same = total = 0
                for seed in range(plan.seeds):
                    for dtype in (torch.float32, torch.bfloat16):
                        ours, theirs = _decided(method, n, d, seed, dtype, device, engine)
                        same, total = same + sum(a == b for a, b in zip(ours, theirs, strict=True)), total + len(ours)
                yield {
                    "method": name,
                    "engine": engine,
                    "device": name_of(device),
                    "tokens": n,
                    "width": d,
                    "selections": total,
                    "equal": same,
                }


def _decided(
    method: AtOnce, n: int, d: int, seed: int, dtype: torch.dtype, device: torch.device, engine: str
) -> tuple[list[list[int]], list[list[int]]]:
    """The orders of several images, on the device and on the CPU: smooth rows, rows with duplicates, protected rows."""
    x, t = image_like(n, d, seed)
    copies = x.clone()
    copies[n // 2 :] = x[: n - n // 2]
    made = [Cues(rows.to(dtype), text=torch.stack([t, t + 1]).to(dtype), question=slice(0, 2)) for rows in (x, copies)]
    made.append(Cues(x.to(dtype), text=t[None].to(dtype), question=slice(0, 1), protect=torch.tensor([3, n - 1])))
    budgets = [max(n // 9, 3)] * len(made)
    there = [_moved(each, device) for each in made]
    with scanning(engine):
        ours = select_batch(method, there, budgets)
    theirs = [select(method, each, k) for each, k in zip(made, budgets, strict=True)]
    return [each.order.tolist() for each in ours], [each.order.tolist() for each in theirs]


def _moved(cues: Cues, device: torch.device) -> Cues:
    assert cues.text is not None
    protect = None if cues.protect is None else cues.protect.to(device)
    return Cues(cues.features.to(device), text=cues.text.to(device), question=cues.question, protect=protect)


@torch.no_grad()
def selections(device: torch.device, plan: Plan) -> Iterator[dict[str, object]]:
    """Time the device's work of a selection, on CUDA in a captured graph."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for images, n, k, d in plan.selections:
        drawn = [image_like(n, d, seed) for seed in range(images)]
        cues = [Cues(x.to(device, dtype), text=t[None].to(device, dtype), question=slice(0, 1)) for x, t in drawn]
        for name, method in DECIDING.items():
            for engine in engines(device):
                with scanning(engine):
                    replay, why = captured(partial(method.at_once, cues, k), device)
                    seconds = [
                        timed(lambda replay=replay: [replay() for _ in range(REPLAYS)], device)[1]
                        for _ in range(plan.rounds)
                    ]
                median, low, high = median_of(1e6 / REPLAYS * torch.tensor(seconds, dtype=torch.float64))
                yield {
                    "method": name,
                    "engine": engine,
                    "images": images,
                    "tokens": n,
                    "kept": k,
                    "width": d,
                    "dtype": str(dtype)[6:],
                    "device": name_of(device),
                    "clock": clock_name(device),
                    "graph": not why,
                    "why": why,
                    "us": median,
                    "us_low": low,
                    "us_high": high,
                    "rounds": plan.rounds,
                }


def captured(work: Callable[[], Any], device: torch.device) -> tuple[Callable[[], Any], str]:
    """Capture work in a CUDA graph. -> its replay, ""; or the work itself, and the reason why it is not captured"""
    if device.type != "cuda":
        return work, "no CUDA device"
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except Exception as error:  # whatever cannot be captured raises what it likes
        return work, _first_line(error)
    return graph.replay, ""


def _of_model(
    name: str, device: torch.device, plan: Plan, until: float, prompts: Prompts, say: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, object]]]:
    """Build a model with random weights and measure it; nothing new begins after `until`. -> part, row"""
    say(f"building {name}")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = build(config_of(name, plan.layers), device, dtype)
    for part, work in _works(name, model, plan, prompts(model)):
        say(f"{name}: {part}, {', '.join(str(each) for each in work.keywords.values())}")
        yield part, _tried({"model": name, **work.keywords}, work, until)


def _works(
    name: str, model: Any, plan: Plan, prompts: Callable[[Any], Mapping[str, Any]]
) -> Iterator[tuple[str, partial[Mapping[str, object]]]]:
    """What is measured of a model, the most important first: all prefills, then answers, then the capture."""

    def measured(measure: Callable[..., Any], more: Mapping[str, Any], *, method: str, batch: int) -> dict[str, object]:
        inputs = prompts(((0,),) * batch)
        return measure(model, inputs, Policy(as_method(method), plan.keep), name=name, **more).to_dict()

    for batch in plan.batches:
        for method in plan.methods:
            more = {"rounds": plan.rounds}
            yield "prefill", partial(measured, prefill.measure, more, method=method, batch=batch)
    for method in plan.methods:
        for batch in plan.batches:
            more = {"rounds": plan.answers, "generated": plan.generated}
            yield "generate", partial(measured, generate.measure, more, method=method, batch=batch)
    for method in plan.methods:
        yield "capture", partial(_whole, model, prompts(((0,),)), plan.keep, method=method)


@torch.no_grad()
def _whole(model: Any, inputs: Mapping[str, Any], keep: int, *, method: str) -> dict[str, object]:
    """Whether a whole pruned prefill can be captured in a CUDA graph, and then answers as without."""
    with prefill.trio(model, inputs, Policy(as_method(method), keep)) as three:
        call, held = three.calls["pruned"], list[torch.Tensor]()
        expected = call.prefill().logits
        replay, why = captured(lambda: held.append(call.prefill().logits), model.device)
        if not why:
            replay()
        equal = not why and torch.equal(held[-1], expected)
    return {"device": name_of(model.device), "graph": not why, "why": why, "equal": equal}


def _tried(case: dict[str, object], work: Callable[[], Mapping[str, object]], ends: float) -> dict[str, object]:
    """A row of this case; where it is not measured, with the reason."""
    if time.monotonic() > ends:
        return {**case, "left_out": "the time is over"}
    try:
        return {**case, **work(), **case, "left_out": ""}
    except (Unmeasurable, torch.OutOfMemoryError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {**case, "left_out": _first_line(error)}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def name_of(device: torch.device) -> str:
    """The device, on CUDA with its name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
