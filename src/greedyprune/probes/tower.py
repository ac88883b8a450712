"""Probes of a vision tower's layer: who looks at which of its rows, and their keys.

Rows lie as the layer has them: (images, rows, d) where all images have one size, or all images packed, (rows, d).
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
    """The attention of a layer's first row, the class token, to all rows. (b, n, d) -> (b, n)

    `attention` is the layer's attention module, `states` what it is called with.
    """
    queries, keys = _heads(attention, "q", states)[:, :1], _heads(attention, "k", states)
    return attention_rows(queries.transpose(1, 2), keys.transpose(1, 2), _scale(attention), one=one)[:, 0].float()


@torch.no_grad()
def received_row(attention: Any, states: Tensor, called: Mapping[str, Any], *, one: bool = False) -> Tensor:
    """The attention that each row receives, the mean over all rows that can look at it. (..., n, d) -> (..., n)

    `called` holds the other arguments of the attention module: a mask, or for packed rows `position_embeddings` and
    `cu_seqlens`, the borders of the images or windows inside which rows look at each other.
    """
    queries, keys = _heads(attention, "q", states), _heads(attention, "k", states)
    if (rotary := called.get("position_embeddings")) is not None:
        queries, keys = sys.modules[type(attention).__module__].apply_rotary_pos_emb_vision(queries, keys, *rotary)
    borders, scale = called.get("cu_seqlens"), _scale(attention)
    if borders is None:
        bias = _bias(called.get("attention_mask"))
        return received(queries.transpose(1, 2), keys.transpose(1, 2), scale, bias, one=one).float()
    seen = torch.zeros(states.shape[0], dtype=torch.float64, device=states.device)
    for places in _stretches(borders.tolist()):
        places = places.to(states.device)
        seen[places] = received(queries[places].transpose(1, 2), keys[places].transpose(1, 2), scale, one=one)
    return seen.float()


@torch.no_grad()
def tower_keys(attention: Any, states: Tensor) -> Tensor:
    """The keys of a layer, before any rotation. (..., n, d) -> (..., n, h, c)"""
    return _heads(attention, "k", states)


def _heads(attention: Any, which: Literal["q", "k"], states: Tensor) -> Tensor:
    """Queries or keys of every head, normalised where the layer does so. (..., n, d) -> (..., n, h, c)"""
    if hasattr(attention, "qkv"):
        return attention.qkv(states).unflatten(-1, (3, attention.num_heads, -1)).select(-3, "qkv".index(which))
    whole = getattr(attention, f"{which}_proj")(states)
    norm = getattr(attention, f"{which}_norm", None)
    return (whole if norm is None else norm(whole)).unflatten(-1, (attention.num_heads, -1))


def _scale(attention: Any) -> float:
    return attention.scaling if hasattr(attention, "scaling") else attention.scale


def _bias(mask: Tensor | None) -> Tensor | None:
    """What is added to the scores so that padding is not looked at: (b, n) or (b, 1, n, n), alike for all queries.

    -> (b, 1, n)
    """
    if mask is None:
        return None
    mask = mask[:, 0, :1] if mask.ndim == 4 else mask[:, None].bool()
    return mask if mask.is_floating_point() else torch.where(mask, 0.0, torch.finfo(torch.float32).min)


def _stretches(borders: list[int]) -> list[Tensor]:
    """The rows between borders, stretches of one length together. -> [(s, length)]"""
    starts: dict[int, list[int]] = {}
    for start, end in pairwise(borders):
        starts.setdefault(end - start, []).append(start)
    every = torch.arange(max(starts, default=0), device="cpu")
    return [torch.tensor(first, device="cpu")[:, None] + every[:length] for length, first in starts.items() if length]
