"""Probes: one row of one layer's attention, computed again from its queries and keys.

So the model keeps its fast attention, which returns no weights; one row costs what one decoding step costs there.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor


def attention_row(queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """One query's softmax attention, the mean over heads. (b, h, d), (b, g, t, d), (b, t) -> (b, t)

    h / g neighbouring query heads share a key head. Computed in float64, so equal keys get equal weights.
    """
    batch, shared, _, width = keys.shape
    grouped = queries.double().reshape(batch, shared, -1, width)
    scores = grouped @ keys.double().transpose(-1, -2) * scale
    if bias is not None:
        scores = scores + bias.double()[:, None, None]
    return scores.softmax(-1).mean((1, 2)).float()


@torch.no_grad()
def class_row(attention: Any, states: Tensor) -> Tensor:
    """The attention of a CLIP-type layer's first token, the class token, to all tokens. (b, 1 + n, d) -> (b, 1 + n)

    `attention` is the layer's attention module, `states` what it is called with.
    """
    queries = attention.q_proj(states[:, :1]).unflatten(-1, (attention.num_heads, -1))
    keys = attention.k_proj(states).unflatten(-1, (attention.num_heads, -1))
    return attention_row(queries[:, 0], keys.transpose(1, 2), attention.scale)


@torch.no_grad()
def decoder_row(
    attention: Any,
    states: Tensor,
    rotary: tuple[Tensor, Tensor],
    at: Tensor,
    mask: Tensor | None,
    past: Tensor | None = None,
) -> Tensor:
    """The attention of the token at column `at` of each prompt, to the past and these tokens. (b, q, d) -> (b, p + q)

    `attention` is the decoder layer's attention module, `states`, `rotary` (cosines and sines of the positions) and
    `mask` what it is called with; `past` (b, g, p, d) are the keys in its cache.
    """
    cos, sin = rotary
    queries = _heads(attention, "q", states.take_along_dim(at[:, None, None], 1))
    queries = _rotated(attention, queries, _columns(cos, at), _columns(sin, at))
    keys = _rotated(attention, _heads(attention, "k", states), cos, sin)
    if past is not None:
        keys = torch.cat([past.to(keys), keys], 2)
    before = keys.shape[2] - states.shape[1]
    return attention_row(queries[:, :, 0], keys, attention.scaling, _bias(mask, at, before, keys))


def _heads(attention: Any, which: str, states: Tensor) -> Tensor:
    """Queries or keys of every head, normalised where the layer does so. (b, q, d) -> (b, h, q, d / h)"""
    heads = getattr(attention, f"{which}_proj")(states).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{which}_norm", None)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def _rotated(attention: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys at their positions, turned by the function that the layer itself calls. (b, h, q, d) -> same"""
    home = sys.modules[type(attention).__module__]
    if cos.ndim == 4:  # M-RoPE where each layer still has to pick the axis of every channel
        sections = attention.config.rope_parameters["mrope_section"]
        return home.apply_multimodal_rotary_pos_emb(heads[:, :1], heads, cos, sin, sections)[1]
    return home.apply_rotary_pos_emb(heads[:, :1], heads, cos, sin)[1]


def _columns(table: Tensor, at: Tensor) -> Tensor:
    """One column of every row; a table of one row stands for all. (..., b or 1, q, d), (b,) -> (..., b, 1, d)"""
    return table.take_along_dim(at.view(*[1] * (table.ndim - 3), -1, 1, 1), -2)


def _bias(mask: Tensor | None, at: Tensor, past: int, keys: Tensor) -> Tensor:
    """What is added to the scores of the query at column `at`: nothing, or enough to hide a key. -> (b, t)"""
    lowest = torch.finfo(torch.float32).min
    if mask is not None and mask.ndim == 4:
        rows = torch.arange(at.shape[0], device=at.device)
        bias = mask[:, 0].expand(at.shape[0], -1, -1)[rows, at]
        return bias if bias.is_floating_point() else torch.where(bias, 0.0, lowest)
    # No mask, or one of padding only: the kernel itself lets nobody look ahead.
    seen = torch.arange(keys.shape[2], device=at.device) <= (at + past)[:, None]
    if mask is not None:
        seen = seen & mask[:, -keys.shape[2] :].bool()
    return torch.where(seen, 0.0, lowest)
