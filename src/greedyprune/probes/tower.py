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
    them. Rows of padding count as none that attend.
    """
    queries, keys = _rotated(attention, _heads(attention, "q", states), _heads(attention, "k", states), called)
    borders, scale = called.get("cu_seqlens", called.get("cu_seq_lens_q")), _scale(attention)
    if borders is None:
        bias = _bias(called.get("attention_mask"))
        return received(queries.transpose(1, 2), keys.transpose(1, 2), scale, bias, one=one).float()
    queries, keys = (heads.flatten(0, -3) for heads in (queries, keys))
    seen = received_inside(queries, keys, borders.tolist(), scale, one=one)
    return seen.float().view(states.shape[:-1])


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
    if not hasattr(attention, "num_heads"):  # Gemma 4's: each head has a norm of its own
        heads = whole.unflatten(-1, (-1, attention.head_dim))
        return heads if norm is None else norm(heads)
    return (whole if norm is None else norm(whole)).unflatten(-1, (attention.num_heads, -1))


def _rotated(attention: Any, queries: Tensor, keys: Tensor, called: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys to their positions by the function that the layer itself calls. (..., n, h, c) -> same"""
    rotary, home = called.get("position_embeddings"), sys.modules[type(attention).__module__]
    if rotary is None:
        return queries, keys
    if hasattr(home, "apply_multidimensional_rope"):  # Gemma 4
        turn = home.apply_multidimensional_rope
        return turn(queries, *rotary, called["position_ids"]), turn(keys, *rotary, called["position_ids"])
    if hasattr(home, "apply_rotary_pos_emb_vision"):
        return home.apply_rotary_pos_emb_vision(queries, keys, *rotary)
    return home.apply_rotary_pos_emb(queries, keys, *rotary, unsqueeze_dim=-2)  # Pixtral's


def _scale(attention: Any) -> float:
    return attention.scaling if hasattr(attention, "scaling") else attention.scale


def _bias(mask: Tensor | None) -> Tensor | None:
    """Return the bias of a mask, 0 or the lowest float. (b, n) or (b, 1, n, n) -> (b, 1 or n, n)"""
    if mask is None:
        return None
    seen = mask[:, 0] if mask.ndim == 4 else mask[:, None].bool()
    return seen if seen.is_floating_point() else torch.where(seen, 0.0, torch.finfo(torch.float32).min)


def _stretches(borders: list[int]) -> list[Tensor]:
    """Group the rows between borders: the s stretches of one length make one tensor. -> [(s, length)]"""
    starts: dict[int, list[int]] = {}
    for start, end in pairwise(borders):
        starts.setdefault(end - start, []).append(start)
    every = torch.arange(max(starts, default=0), device="cpu")
    return [torch.tensor(first, device="cpu")[:, None] + every[:length] for length, first in starts.items() if length]
