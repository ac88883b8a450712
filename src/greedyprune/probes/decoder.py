"""Probes of a decoder layer: rotated keys, the rows of some tokens, and which text tokens rate an image."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK
from greedyprune.probes.rows import attention_rows


@torch.no_grad()
def decoder_keys(attention: Any, states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """The keys of all tokens at their positions. (b, q, d) -> (b, g, q, c)

    `attention` is the decoder layer's attention module, `states` and `rotary` (cosines and sines of the positions) what
    it is called with.
    """
    return _rotated(attention, _heads(attention, "k", states), *rotary)


@torch.no_grad()
def decoder_queries(attention: Any, states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """The queries of all tokens at their positions. (b, q, d) -> (b, h, q, c)

    Of all of them, though few are asked for: the projection may be a module of another kind (quantised, an adapter),
    which is called with the shape that its own layer calls it with.
    """
    return _rotated(attention, _heads(attention, "q", states), *rotary)


@torch.no_grad()
def decoder_rows(
    attention: Any, queries: Tensor, keys: Tensor, at: Tensor, mask: Tensor | None, *, one: bool = False
) -> Tensor:
    """The attention of the tokens at columns `at` of each prompt, to all of the past and these tokens.

    (b, h, q, c), (b, g, p + q, c), (b, r) -> (b, r, p + q). `keys` are rotated, those in the cache first.
    """
    bias = _bias(mask, at, keys.shape[2] - queries.shape[2], keys)
    chosen = queries.take_along_dim(at[:, None, :, None], 2)
    return attention_rows(chosen, keys, attention.scaling, bias, one=one).float()


@torch.no_grad()
def raters(visual: Tensor, text: Tensor) -> Tensor:
    """Which text tokens an image speaks to more than to the average one, by their input embeddings. -> (m,) bool

    m_j = mean_i softmax_j(v_i . e_j) > mean_j(m_j), as in SparseVLM. (n, d), (m, d)
    """
    spoken = (visual.double() @ text.double().T).softmax(-1).mean(0)
    return spoken > spoken.mean() + SLACK


def _heads(attention: Any, which: str, states: Tensor) -> Tensor:
    """Queries or keys of every head, normalised where the layer does so. (b, q, d) -> (b, h, q, c)"""
    heads = getattr(attention, f"{which}_proj")(states).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{which}_norm", None)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def _rotated(attention: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys at their positions, turned by the function that the layer itself calls. (b, h, q, c) -> same"""
    home = sys.modules[type(attention).__module__]
    if cos.ndim == 4:  # M-RoPE where each layer still has to pick the axis of every channel
        sections = attention.config.rope_parameters["mrope_section"]
        return home.apply_multimodal_rotary_pos_emb(heads[:, :1], heads, cos, sin, sections)[1]
    return home.apply_rotary_pos_emb(heads[:, :1], heads, cos, sin)[1]


def _bias(mask: Tensor | None, at: Tensor, past: int, keys: Tensor) -> Tensor:
    """What is added to the scores of the queries at columns `at`: nothing, or enough to hide a key. -> (b, r, t)"""
    lowest = torch.finfo(torch.float32).min
    if mask is not None and mask.ndim == 4:
        bias = mask[:, 0].expand(at.shape[0], -1, -1).take_along_dim(at[:, :, None], 1)
        return bias if bias.is_floating_point() else torch.where(bias, 0.0, lowest)
    # No mask, or one of padding only: the kernel itself lets nobody look ahead.
    seen = torch.arange(keys.shape[2], device=at.device) <= (at + past)[:, :, None]
    if mask is not None:
        seen = seen & mask[:, None, -keys.shape[2] :].bool()
    return torch.where(seen, 0.0, lowest)
