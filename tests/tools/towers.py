"""Tools for tests of what is seen in vision towers: which row reaches which token, and what eager attention does."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import greedyprune as gp
import proofs
from greedyprune.cues import Need
from greedyprune.models.parts import Parts, find_parts
from greedyprune.models.table import FAMILIES
from looks import asking, near
from proofs import CASES, forward, hooked
from tiny import Tiny, tiny

BATCH = CASES[2].rows
"""A prompt with picture 0 beside one with pictures 1 and 2: other sizes for some families, tiles for others."""
IMAGES = (
    *("pixel_values", "pixel_attention_mask", "image_grid_thw", "image_merge_sizes", "image_sizes"),
    *("image_position_ids", "spatial_shapes"),
)
"""The arguments of models that say something of images."""
PROJECTORS = {
    "llava": "multi_modal_projector",
    "vipllava": "multi_modal_projector",
    "gemma3": "multi_modal_projector",
    "paligemma": "multi_modal_projector",
    "aya_vision": "multi_modal_projector",
    "cohere2_vision": "multi_modal_projector",
    "mistral3": "multi_modal_projector",
    "lighton_ocr": "vision_projection",
    "internvl": "multi_modal_projector",
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), "visual.merger"),
    "ernie4_5_vl_moe": "resampler_model",
    "paddleocr_vl": "projector",
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision"), "multi_modal_projector"),
    "smolvlm": "connector",
    "idefics3": "connector",
}
"""The module that gets the tower's rows, of families where it gets all of them as they are."""


RESIZED = ("llava_onevision",)
"""Families that resize the tokens of a large image, so that a token is a mean of its neighbours. It is left out."""


def vision(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a prompt that says something of its images."""
    return {name: value for name, value in inputs.items() if name in IMAGES}


def tokens(parts: Parts, inputs: dict[str, Tensor]) -> Tensor:
    """The projector's output for all images of a prompt. -> (n, d)"""
    with torch.no_grad():
        out = parts.outer.get_image_features(**vision(inputs), return_dict=True).pooler_output
    return out.flatten(0, 1) if isinstance(out, Tensor) else torch.cat(list(out))


def read_layer(parts: Parts) -> int:
    """The layer whose output the projector reads, the deepest if it reads several."""
    listed = getattr(parts.config, "vision_feature_layer", getattr(parts.config, "vision_feature_layers", -1))
    count = len(parts.tower_layers)
    entries = [listed] if isinstance(listed, int) else listed
    return max(entry % (count + 1) - 1 if entry >= 0 else entry % count for entry in entries)


def sizes_of(family: str, inputs: dict[str, Tensor]) -> Tensor | None:
    """What the tower is told of the sizes of a prompt's images."""
    names = {"pixel_position_ids": "image_position_ids", "merge_sizes": "image_merge_sizes"}
    name = FAMILIES[family].tower.sizes
    return inputs.get({"grid_thw": "image_grid_thw", **names}.get(name, name))


@cache
def folding(family: str) -> list[list[int]]:
    """For every token of the batch which rows of the tower reach it, found out by changing one row after another.

    Rows count through the images, a class token included.
    """
    made = tiny(family, "eager")
    parts, inputs = find_parts(made.model), made.prompt(BATCH)
    plain, changed = tokens(parts, inputs), torch.randn(32, generator=torch.Generator().manual_seed(0))
    reach: list[list[int]] = [[] for _ in plain]
    state = {"row": 0, "rows": 1}

    def change(layer: nn.Module, args: Any, out: Any) -> None:
        output: Tensor = out[0] if isinstance(out, tuple) else out
        rows = torch.arange(output[..., 0].numel()).view(output.shape[:-1])
        state["rows"] = rows.numel()
        output[rows == state["row"]] += changed  # in place, so whoever notes what a layer returned sees it too

    with hooked(parts.tower_layers[read_layer(parts)][0].register_forward_hook(change)):
        while state["row"] < state["rows"]:
            for token in (tokens(parts, inputs) - plain).abs().amax(1).gt(1e-6).nonzero()[:, 0].tolist():
                reach[token].append(state["row"])
            state["row"] += 1
    return [rows for rows in reach if rows]  # newlines are made of none


@dataclass(eq=False)
class Inside:
    """What a tower did with a batch, by layer; rows of all images in a row."""

    parts: Parts
    states: list[Tensor] = field(default_factory=list)
    """What each layer's attention was called with."""
    outputs: list[Tensor] = field(default_factory=list)
    """What each layer returned."""
    calls: list[list[tuple[Tensor, Tensor, Tensor, Tensor]]] = field(default_factory=list)
    """Queries, keys, weights and mask of every call of eager attention: for all images, or window after window."""
    read: Tensor | None = None
    """What the projector was called with."""

    def received(self, layer: int, *, one: bool = False) -> Tensor:
        """What each row receives of those that see it, padding apart: their mean. -> (rows,)"""
        found: list[Tensor] = []
        for queries, keys, weights, mask in self.calls[layer]:
            whole = (_as_one(queries, keys, mask) if one else weights).mean(1)
            real = (mask == 0).any(-2).expand(whole.shape[:2]).to(whole)  # what somebody may look at
            sees = (mask == 0).expand(whole.shape) * real[:, :, None]
            found.append(((whole * sees).sum(1) / sees.sum(1).clamp_min(1)).flatten())
        return torch.cat(found)

    def cls(self, layer: int, *, one: bool = False) -> Tensor:
        """The class token's row. -> (rows,)"""
        ((queries, keys, weights, mask),) = self.calls[layer]
        return (_as_one(queries, keys, mask) if one else weights).mean(1)[:, 0].flatten()

    def keys(self, layer: int) -> Tensor:
        """The keys, from the weights of the projection. -> (rows, h, c)"""
        attention: Any = self.parts.tower_layers[layer][1]
        if not hasattr(attention, "num_heads"):  # Gemma 4's projections clip, and each head has a norm
            heads = attention.k_proj(flat(self.states[layer])).unflatten(-1, (4, -1))
            return attention.k_norm(heads).detach()
        if hasattr(attention, "qkv"):
            weight, bias = attention.qkv.weight.chunk(3)[1], attention.qkv.bias
            bias = None if bias is None else bias.chunk(3)[1]
        else:
            weight, bias = attention.k_proj.weight, attention.k_proj.bias
        return (flat(self.states[layer]) @ weight.T + (0 if bias is None else bias)).unflatten(-1, (4, -1)).detach()


def _as_one(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """All heads as one. (b, h, n, c), (b, h, n, c), (b, n, n) -> (b, 1, n, n)"""
    q, k = (x.transpose(1, 2).flatten(2) for x in (queries, keys))
    return (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + mask).softmax(-1)[:, None]


def flat(x: Tensor) -> Tensor:
    """The rows of all images in a row. (..., n, d) -> (rows, d)"""
    return x.flatten(0, -2)


def inside(made: Tiny, inputs: dict[str, Tensor]) -> Inside:
    """What the tower of an eager model does with a prompt's images."""
    parts = find_parts(made.model)
    noted, calls = Inside(parts), {id(attention): [] for _, attention in parts.tower_layers}
    home: Any = sys.modules[type(parts.tower_layers[0][1]).__module__]
    eager = home.eager_attention_forward

    def spied(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        out, weights = eager(module, query, key, *args, **kwargs)
        if id(module) in calls:
            given = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
            mask = torch.zeros(1, 1, key.shape[2]) if given is None else given[:, 0]
            calls[id(module)].append((query, key, weights, mask))
        return out, weights

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        noted.states.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        noted.outputs.append(flat(output[0] if isinstance(output, tuple) else output))

    def read(module: nn.Module, args: Any) -> None:
        noted.read = args[0]

    hooks = [attention.register_forward_pre_hook(enter, with_kwargs=True) for _, attention in parts.tower_layers]
    hooks += [layer.register_forward_hook(leave) for layer, _ in parts.tower_layers]
    if parts.family.model_type in PROJECTORS:
        hooks.append(parts.outer.get_submodule(PROJECTORS[parts.family.model_type]).register_forward_pre_hook(read))
    home.eager_attention_forward = spied
    try:
        with hooked(*hooks):
            tokens(parts, inputs)
    finally:
        home.eager_attention_forward = eager
    noted.calls = list(calls.values())
    return noted


@cache
def of_batch(family: str) -> Inside:
    """The same for the batch of most tests."""
    made = tiny(family, "eager")
    return inside(made, made.prompt(BATCH))


def by_token(family: str, rows: Tensor, *, mean: bool = False) -> list[Tensor]:
    """What was seen by row, by the tokens of each image: the sum of a token's rows, or their mean. -> [(n, ...)]"""
    parts = [rows[reach] for reach in folding(family)]
    found = torch.stack([p.mean(0) if mean else p.sum(0) for p in parts]).split(counts(family))
    return [each for each, own in zip(found, _own_rows(family), strict=True) if own]


@cache
def _own_rows(family: str) -> list[bool]:
    """For every image of the batch whether each row of the tower has its own token: not where tokens are resized."""
    sizes = torch.tensor([*map(len, folding(family))]).split(counts(family))
    return [len(set(each.tolist())) == 1 for each in sizes]


@cache
def counts(family: str) -> list[int]:
    """How many tokens each image of the batch has."""
    made = tiny(family)
    with gp.prune(made.model, proofs.GRID if made.has_grid else "random", 2) as handle:
        forward(made.model, made.prompt(BATCH))
        return [selection.n for selection in handle.selections]


def assert_seen(seen: list[Tensor], expected: list[Tensor]) -> None:
    """As many cues as expected, each near its own, and the cases tell tokens and images apart."""
    assert len(seen) == len(expected) > 1
    for mine, wanted in zip(seen, expected, strict=True):
        assert not mine.requires_grad
        near(mine, wanted)
        assert (wanted - wanted.flip(0)).abs().max() > 1e-3


def look(family: str, need: Need, how: Any = forward, **options: Any) -> list[Tensor]:
    """What a method is given of each image of the batch."""
    made, seen = tiny(family), list[Tensor]()
    inputs = made.prompt(BATCH)
    with gp.prune(made.model, asking(seen, need, gp.Input()), 2) as handle:
        how(made.model, inputs, **options)
        assert [selection.k for selection in handle.selections] == [2] * len(handle.selections)
    return of_own_rows(family, seen)


def of_own_rows(family: str, seen: list[Tensor]) -> list[Tensor]:
    """Those of images whose rows each have their own token, of what was seen of the batch's images in turn."""
    if family not in RESIZED:
        return seen
    times = len(seen) // len(_own_rows(family))
    return [each for each, own in zip(seen, _own_rows(family) * times, strict=True) if own]
