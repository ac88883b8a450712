"""The cost of the hooks in a decode step: a pruned model against the same weights without hooks, on equal caches.

Both do the same arithmetic: the bare model gets a plain cache with copies of the pruned cache's keys and values, the
same token and the same position, and must give the same logits. They run in pairs, in random order within a pair;
what is compared is the median of the pairs' ratios, which other work on the machine moves least.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, LlavaConfig, LlavaForConditionalGeneration

from greedyprune.attach.forward.cache import Held
from greedyprune.attach.handle import prune
from greedyprune.bench.clock import median_of, threads_set
from greedyprune.models.release import cache_of, cached
from greedyprune.stages import Input, Layer, Stage

SIZES = ((128, 5), (416, 5), (352, 10))
"""Widths and decoder layers: the bundled model, and ten times its parameters by width alone and by width and depth."""
STAGES: tuple[Stage, ...] = (Input(), Layer(2), Layer(2, early=True))
RAGGED: tuple[Stage, ...] = (Input(), Layer(2, early=True))
"""Stages at which all layers hold the same tokens, so a stock model can be told which columns are padding."""
PAIRS = 300
IMAGE, TOKENS, SIDE = 4, 144, 168
KEPT = (36, 24)
"""Visual tokens kept of the image of each prompt; a batch with both is ragged."""


@dataclass(frozen=True)
class Row:
    """One measured case."""

    stage: str
    ragged: bool
    """True for a batch of two prompts that keep different numbers of tokens."""
    width: int
    layers: int
    parameters: int
    held: int
    """Tokens that the last cache layer holds of each prompt."""
    bare_ms: float
    """Wall time of a step without hooks, median."""
    hooked_ms: float
    ratio: float
    """hooked / bare, median of the pairs' ratios of wall time."""
    ratio_low: float
    """The 95 % interval of that median, by bootstrap over the pairs."""
    ratio_high: float
    cpu_ratio: float
    """The same of the calling thread's CPU time."""
    cpu_low: float
    cpu_high: float
    extra_us: float
    """hooked - bare, median of the pairs' differences of CPU time: what the hooks cost a step."""
    extra_us_per_layer: float
    bare_operations: int
    """Tensor operations that a step dispatches."""
    hooked_operations: int
    error: float
    """The largest difference of the two steps' logits."""
    pairs: int
    threads: int

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def llava(width: int, layers: int, seed: int = 0) -> Any:
    """A LLaVA model with random weights; (128, 5) is the shape of the bundled one."""
    text = {
        "model_type": "llama",
        "vocab_size": 112,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": width // 32,
        "max_position_embeddings": 512,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 3 * width // 2,
        "intermediate_size": 6 * width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 14,
        "projection_dim": 3 * width // 2,
    }
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=TOKENS,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config).eval()


def same_weights(model: Any) -> Any:
    """A second model on the first one's parameters."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two that are compared: a model, a cache behind a prompt, and the arguments of a step."""

    model: Any
    cache: Any
    inputs: dict[str, Tensor]

    def step(self) -> Tensor:
        """One decode step as generate() makes it. -> (b, 1, vocabulary)"""
        return self.model(**self.inputs, **cached(self.model, self.cache), use_cache=True).logits

    def back(self) -> None:
        """Remove the step's token from the cache."""
        self.cache.crop(-1)


def sides(hooked: Any, bare: Any, batch: int, seed: int = 0) -> tuple[Side, Side]:
    """Both behind a prompt of one image for each row of the batch. `hooked` is pruned."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, 100, (16,), generator=generator)
    ids = torch.cat([words[:8], torch.full((TOKENS,), IMAGE), words[8:]]).expand(batch, -1)
    pixels = torch.randn(batch, 3, SIDE, SIDE, generator=generator)
    ones, total = torch.ones_like(ids), ids.shape[1]
    output = hooked(input_ids=ids, pixel_values=pixels, attention_mask=ones, use_cache=True)
    cache, plain = cache_of(output), DynamicCache(config=bare.config.get_text_config())
    for index, layer in enumerate(cache.layers):
        plain.update(layer.keys.clone(), layer.values.clone(), index)
    cut = Held.by(cache).cut_at(0)
    valid = ones if cut is None else cut.valid.long()
    inputs = {"input_ids": ids[:, -1:], "position_ids": torch.full((batch, 1), total)}

    def masked(past: Tensor) -> dict[str, Tensor]:
        return {**inputs, "attention_mask": torch.cat([past, ones[:, :1]], 1)}

    return Side(hooked, cache, masked(ones)), Side(bare, plain, masked(valid))


def usual_threads() -> tuple[int, ...]:
    """One thread, and as many as there are by default."""
    return tuple(sorted({1, torch.get_num_threads()}))


class Operations(TorchDispatchMode):
    """Counts the tensor operations that are dispatched inside."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(side: Side) -> int:
    """The number of tensor operations that a step dispatches."""
    with Operations() as counted:
        side.step()
    side.back()
    return counted.count


@torch.no_grad()
def measure(
    sizes: tuple[tuple[int, int], ...] = SIZES, pairs: int = PAIRS, threads: tuple[int, ...] = (1,), seed: int = 0
) -> Iterator[Row]:
    """Measure every stage at every size. The thread count is put back at the end."""
    for width, layers in sizes:
        model = llava(width, layers, seed)
        bare = same_weights(model)
        for ragged, stages in ((False, STAGES), (True, RAGGED)):
            keep = list(KEPT) if ragged else KEPT[0]
            for stage in stages:
                with prune(model, "greedyprune", keep=keep, at=stage):
                    ours, theirs = sides(model, bare, 1 + ragged, seed)
                    for count in threads:
                        with threads_set(count):
                            yield _case(ours, theirs, stage, ragged, pairs, count)


def _case(ours: Side, theirs: Side, stage: Stage, ragged: bool, pairs: int, threads: int) -> Row:
    error = float((ours.step() - theirs.step()).abs().max())  # the first step of each is not counted
    ours.back()
    theirs.back()
    text = theirs.model.config.get_text_config()
    wall, cpu = _pairs(ours, theirs, pairs)
    extra = 1e6 * float((cpu[1] - cpu[0]).median())
    ratio, low, high = median_of(wall[1] / wall[0])
    cpu_ratio, cpu_low, cpu_high = median_of(cpu[1] / cpu[0])
    return Row(
        stage=str(stage),
        ragged=ragged,
        width=text.hidden_size,
        layers=text.num_hidden_layers,
        parameters=sum(weight.numel() for weight in theirs.model.parameters()),
        held=theirs.cache.layers[-1].keys.shape[-2],
        bare_ms=round(1e3 * float(wall[0].median()), 3),
        hooked_ms=round(1e3 * float(wall[1].median()), 3),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        cpu_ratio=cpu_ratio,
        cpu_low=cpu_low,
        cpu_high=cpu_high,
        extra_us=round(extra, 1),
        extra_us_per_layer=round(extra / text.num_hidden_layers, 2),
        bare_operations=operations(theirs),
        hooked_operations=operations(ours),
        error=error,
        pairs=pairs,
        threads=threads,
    )


def _pairs(ours: Side, theirs: Side, pairs: int) -> tuple[Tensor, Tensor]:
    """Wall and CPU seconds of both, side by side. -> twice (2, pairs) float64, without hooks first"""
    order = random.Random(0)
    wall, cpu = torch.zeros(2, pairs, dtype=torch.float64), torch.zeros(2, pairs, dtype=torch.float64)
    for pair in range(pairs):
        for place in order.sample((0, 1), 2):
            wall[place, pair], cpu[place, pair] = _timed((theirs, ours)[place])
    return wall, cpu


def _timed(side: Side) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.thread_time()
    side.step()
    cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    side.back()
    return wall, cpu
