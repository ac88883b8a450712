"""Probes of a decoder layer: rotated keys, values, attention rows of some tokens, and the text raters of an image.

Most decoders project states to heads, normalise them, and rotate them to their positions. What differs by decoder is
read off the attention module: `_heads` and `_rotated`. A decoder with latent attention has projections of its own.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK
from greedyprune.probes.rows import attention_rows

if TYPE_CHECKING:
    from greedyprune.keep import Keep
    from greedyprune.policy import Restore

NORMS = ("norm", "layernorm")
"""The endings of the names of norms of queries, keys and values: q_norm, and LFM2's q_layernorm."""


@torch.no_grad()
def attended(layer: Any, hidden: Tensor) -> Tensor:
    """Compute what a decoder layer's attention module gets of the states that enter the layer. (b, q, d) -> same"""
    norm = layer.input_layernorm if hasattr(layer, "input_layernorm") else layer.operator_norm
    return norm(hidden)


@torch.no_grad()
def unpacked(attention: Any, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Compute keys and values of all heads from what a KV cache layer holds: a latent, if the attention is latent.

    (b, g, q, c), (b, g, q, c') -> the same, or (b, 1, q, r), (b, 1, q, c'') -> (b, h, q, c), (b, h, q, c')
    """
    return attention.expand_kv(keys, values) if _is_latent(attention) else (keys, values)


@torch.no_grad()
def decoder_keys(attention: Any, states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the keys of all tokens, rotated to their positions. (b, q, d) -> (b, g, q, c)

    `attention` is the decoder layer's attention module. `states` and `rotary` (cosines and sines of the positions) are
    the arguments that its layer calls it with.
    """
    if _is_latent(attention):
        return attention.expand_kv(*_latents(attention, states, rotary))[0]
    return _rotated(attention, _heads(attention, "k", states), *rotary)


@torch.no_grad()
def decoder_values(attention: Any, states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the values of all tokens. (b, q, d) -> (b, g, q, c)"""
    if _is_latent(attention):
        return attention.expand_kv(*_latents(attention, states, rotary))[1]
    return _heads(attention, "v", states)


@torch.no_grad()
def decoder_queries(attention: Any, states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the queries of all tokens, rotated to their positions. (b, q, d) -> (b, h, q, c)

    A method needs only few of them. The projection may be another kind of module (quantised, an adapter), so it gets
    the same input shape as in its own layer.
    """
    if _is_latent(attention):
        down = attention.q_lora_rank is not None
        whole = attention.q_b_proj(attention.q_a_layernorm(attention.q_a_proj(states))) if down else None
        heads = (attention.q_proj(states) if whole is None else whole).unflatten(-1, (-1, attention.qk_head_dim))
        plain, turned = heads.transpose(1, 2).split([attention.qk_nope_head_dim, attention.qk_rope_head_dim], -1)
        return torch.cat([plain, _rotated(attention, turned, *rotary)], -1)
    return _rotated(attention, _heads(attention, "q", states), *rotary)


@torch.no_grad()
def decoder_rows(
    attention: Any,
    queries: Tensor,
    keys: Tensor,
    at: Tensor,
    mask: Tensor | None,
    *,
    window: int | None = None,
    one: bool = False,
) -> Tensor:
    """Compute the attention weights of the queries at columns `at` over all keys, the mean over heads.

    (b, h, q, c), (b, g, p + q, c), (b, r) -> (b, r, p + q). `keys` are rotated; the p keys of the KV cache come first.
    `window`: the width of the layer's sliding window, the query included; a mask of (b, 1, q, p + q) holds it already.
    `one`: see `attention_rows`.
    """
    bias = _bias(mask, at, keys.shape[2] - queries.shape[2], keys, window)
    chosen = queries.take_along_dim(at[:, None, :, None], 2)
    return attention_rows(chosen, keys, attention.scaling, bias, one=one).float()


@torch.no_grad()
def decoder_plain(attention: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the queries and the keys of all tokens before any rotation. (b, q, d) -> (b, h, q, c), (b, g, q, c)"""
    return _heads(attention, "q", states), _heads(attention, "k", states)


@torch.no_grad()
def image_row(queries: Tensor, keys: Tensor, scale: float, *, one: bool = False) -> Tensor:
    """Compute the attention of the mean query of some tokens to these tokens, the mean over heads.

    No mask and no other token plays a part. (h, n, c), (g, n, c) -> (n,). `one`: see `attention_rows`.
    """
    mean = queries.double().mean(1, keepdim=True)
    return attention_rows(mean[None], keys[None], scale, one=one)[0, 0].float()


@torch.no_grad()
def rotary_decay(attention: Any, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute the decay D of the rotary embedding between every two tokens: 1 at distance 0, less further away.

    D_mn = mean over the frequencies of cos((m - n) theta), m and n the positions: the mean score of queries and keys
    that are alike, as a share of that at distance 0. (b, q, c) cosines and sines, or (axes, b, q, c) -> (b, q, q)
    """
    if cos.ndim == 4:  # the layer chooses the axis of every channel: two equal channels turn like its own
        turned = _rotated(attention, torch.ones_like(cos[0])[:, None], cos, sin)[:, 0]
    else:
        turned = torch.cat([cos, sin], -1)
    turned = torch.nn.functional.normalize(turned.float(), dim=-1)
    return (turned @ turned.mT).clamp_(-1, 1)


@torch.no_grad()
def restored_scores(
    restore: Restore,
    shape: tuple[int, ...],
    kept: list[tuple[int, Tensor, Keep]],
    attention: Any,
    rotary: tuple[Tensor, Tensor],
) -> Tensor:
    """Compute what `restore` adds to attention scores: log(s_n (2 - D_mn)) for query m and kept visual token n, else 0.

    s_n is the number of the image's tokens that stand behind token n, D the decay of the rotary embedding. `shape`:
    (b, q) of the sequence; `kept`: per image its row, the columns of its kept tokens and its decision. Images of which
    everything stays get nothing. -> (b, q, q), or (b, 1, q) if the query plays no part
    """
    sizes, cut = torch.ones(shape, device="cpu"), torch.zeros(shape, device="cpu")
    for row, columns, keep in kept:
        if 0 < keep.k < keep.n:
            own = torch.full((keep.k,), keep.n / keep.k, device="cpu")
            sizes[row, columns] = own if keep.weights is None else (keep.weights != 0).sum(1).to(own)
            cut[row, columns] = 1.0
    device = rotary[0].device
    added = sizes.log()[:, None].to(device)
    if restore == "size":
        return added
    decay = (2 - rotary_decay(attention, *rotary)).log() * cut[:, None].to(device)
    return decay if restore == "distance" else decay + added


@torch.no_grad()
def raters(visual: Tensor, text: Tensor) -> Tensor:
    """Find the text raters of an image: text tokens that are more similar to it than the average text token.

    m_j = mean_i softmax_j(v_i . e_j) > mean_j(m_j) on input embeddings, as in SparseVLM. (n, d), (m, d) -> (m,) bool
    """
    spoken = (visual.double() @ text.double().T).softmax(-1).mean(0)
    return spoken > spoken.mean() + SLACK


def _is_latent(attention: Any) -> bool:
    """True for multi-head latent attention, whose keys and values of all heads come from one small vector per token."""
    return hasattr(attention, "kv_a_proj_with_mqa")


def _latents(attention: Any, states: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the latent of every token, and the rotated part of its key, which all heads share.

    (b, q, d) -> (b, 1, q, r), (b, 1, q, c)
    """
    both = attention.kv_a_proj_with_mqa(states)[:, None]
    latent, turned = both.split([attention.kv_lora_rank, attention.qk_rope_head_dim], -1)
    return attention.kv_a_layernorm(latent), _rotated(attention, turned, *rotary)


def _heads(attention: Any, which: str, states: Tensor) -> Tensor:
    """Compute queries, keys or values of all heads, normalised if the layer has a norm. (b, q, d) -> (b, h, q, c)"""
    shared = which == "v" and attention.v_proj is None  # Gemma 4's large models: a value is its key before the norm
    whole = getattr(attention, "k_proj" if shared else f"{which}_proj")(states)
    norm = next((getattr(attention, f"{which}_{end}") for end in NORMS if hasattr(attention, f"{which}_{end}")), None)
    if norm is not None and getattr(attention, "qk_norm_type", "") == "olmo":  # one norm over all heads
        whole, norm = norm(whole), None
    heads = whole.unflatten(-1, (-1, attention.head_dim))
    count: int = attention.config.num_attention_heads
    if which == "q" and heads.shape[-2] == 2 * count:  # each query has a gate of the layer's output beside it
        heads = heads.unflatten(-2, (count, 2)).select(-2, 0)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def _rotated(attention: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys to their positions by the function that the layer itself calls. (b, h, q, c) -> same"""
    home, config = sys.modules[type(attention).__module__], attention.config
    if config.model_type == "cohere2" and attention.sliding_window is None:
        return heads  # its layers with full attention know no positions
    if cos.ndim == 4:  # M-RoPE of models whose layers choose the axis of every channel themselves
        sections = config.rope_parameters["mrope_section"]
        return home.apply_multimodal_rotary_pos_emb(heads[:, :1], heads, cos, sin, sections)[1]
    if _is_latent(attention) and config.rope_interleave:
        return home.apply_rotary_pos_emb_interleave(heads[:, :1], heads, cos, sin)[1]
    if "k" not in inspect.signature(home.apply_rotary_pos_emb).parameters:  # Gemma 4's takes one tensor
        return home.apply_rotary_pos_emb(heads, cos, sin)
    return home.apply_rotary_pos_emb(heads[:, :1], heads, cos, sin)[1]


def _bias(mask: Tensor | None, at: Tensor, past: int, keys: Tensor, window: int | None) -> Tensor:
    """Return the bias on the scores of the queries at columns `at`: 0, or the lowest float to hide a key.

    -> (b, r, t)
    """
    lowest = torch.finfo(torch.float32).min
    if mask is not None and mask.ndim == 4:
        bias = mask[:, 0].expand(at.shape[0], -1, -1).take_along_dim(at[:, :, None], 1)
        return bias if bias.is_floating_point() else torch.where(bias, 0.0, lowest)
    # Without a mask, or with a padding mask, the kernel itself is causal and has the window.
    back = (at + past)[:, :, None] - torch.arange(keys.shape[2], device=at.device)
    seen = back >= 0
    if window is not None:
        seen = seen & (back < window)
    if mask is not None:
        seen = seen & mask[:, None, -keys.shape[2] :].bool()
    return torch.where(seen, 0.0, lowest)
