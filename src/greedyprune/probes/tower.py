"""Probes of a vision tower's layer: the attention of the class token, the attention that rows receive, and keys.

Rows have the shape of the layer's states: (images, rows, d) if all images have one size, or (rows, d), all images
packed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from greedyprune.probes.rows import attention_rows, received


@torch.no_grad()
def class_row(attention: Any, states: Tensor, *, one: bool = False) -> Tensor:
    """Compute the attention weights of a layer's first row, the class token, over all rows. (b, n, d) -> (b, n)

    `attention` is the layer's attention module, `states` its input. `one`: see `attention_rows`.
    """
    queries, keys = _heads(attention, "q", states)[:, :1], _heads(attention, "k", states)
    return attention_rows(queries.transpose(1, 2), keys.transpose(1, 2), _scale(attention), one=one)[:, 0].float()


@torch.no_grad()
def received_row(attention: Any, states: Tensor, called: Mapping[str, Any], *, one: bool = False) -> Tensor:
    """Compute the attention that each row receives, the mean over all rows that attend to it. (..., n, d) -> (..., n)

    `called` holds the other arguments of the attention module: an attention mask, or for packed rows
    `position_embeddings` and `cu_seqlens`. The latter are the borders of images or windows. Rows attend only inside
    them.
    """
    queries, keys = _heads(attention, "q", states), _heads(attention, "k", states)
    if (rotary := called.get("position_embeddings")) is not None:
        queries, keys = sys.modules[type(attention).__module__].apply_rotary_pos_emb_vision(queries, keys, *rotary)
    borders, scale = called.get("cu_seqlens"), _scale(attention)
    if borders is None:
        bias = _bias(called.get("attention_mask"))
        return received(queries.transpose(1, 2), keys.transpose(1, 2), scale, bias, one=one).float()
    return received_inside(queries, keys, borders.tolist(), scale, one=one).float()


@torch.no_grad()
def received_inside(queries: Tensor, keys: Tensor, borders: list[int], scale: float, *, one: bool = False) -> Tensor:
    """Compute the attention that each of packed rows receives from those between the same borders, their mean.

    (n, h, c), (n, h, c) -> (n,)
    """
    seen = torch.zeros(queries.shape[0], dtype=torch.float64, device=queries.device)
    for places in _stretches(borders):
        places = places.to(queries.device)
        seen[places] = received(queries[places].transpose(1, 2), keys[places].transpose(1, 2), scale, one=one)
    return seen


@torch.no_grad()
def tower_keys(attention: Any, states: Tensor) -> Tensor:
    """Compute the keys of a layer, before any rotation. (..., n, d) -> (..., n, h, c)"""
    return _heads(attention, "k", states)


def _heads(attention: Any, which: Literal["q", "k"], states: Tensor) -> Tensor:
    """Compute the queries or keys of every head, normalised if the layer has a norm. (..., n, d) -> (..., n, h, c)"""
    if hasattr(attention, "qkv"):
        return attention.qkv(states).unflatten(-1, (3, attention.num_heads, -1)).select(-3, "qkv".index(which))
    whole = getattr(attention, f"{which}_proj")(states)
    norm = getattr(attention, f"{which}_norm", None)
    return (whole if norm is None else norm(whole)).unflatten(-1, (attention.num_heads, -1))


def _scale(attention: Any) -> float:
    return attention.scaling if hasattr(attention, "scaling") else attention.scale


def _bias(mask: Tensor | None) -> Tensor | None:
    """Return the bias that hides padding, the same for all queries. (b, n) or (b, 1, n, n) -> (b, 1, n)"""
    if mask is None:
        return None
    mask = mask[:, 0, :1] if mask.ndim == 4 else mask[:, None].bool()
    return mask if mask.is_floating_point() else torch.where(mask, 0.0, torch.finfo(torch.float32).min)


def _stretches(borders: list[int]) -> list[Tensor]:
    """Group the rows between borders: the s stretches of one length make one tensor. -> [(s, length)]"""
    starts: dict[int, list[int]] = {}
    for start, end in pairwise(borders):
        starts.setdefault(end - start, []).append(start)
    every = torch.arange(max(starts, default=0), device="cpu")
    return [torch.tensor(first, device="cpu")[:, None] + every[:length] for length, first in starts.items() if length]
