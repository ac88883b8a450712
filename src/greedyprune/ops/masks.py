"""Attention masks of a sequence that was cut: padding masks (b, l) and attention masks (b, 1, q, l).

A mask is cut from the model's own mask, or rebuilt from the cut. A layer with a sliding window counts the tokens that
stay, in the prompt and in its cache, so its mask must be rebuilt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from greedyprune.ops.cut import forbidden

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.ops.cut import Cut


def padding_mask(cut: Cut, mask: Tensor) -> Tensor:
    """Cut a padding mask. Padding of a row is zero. (b, L) -> (b, l)"""
    return (cut.take(mask, -1).bool() & cut.valid.to(mask.device)).to(mask.dtype)


def padded(cut: Cut, padding: Tensor | None) -> Cut:
    """The same cut, with the columns that a padding mask hides marked as not valid. (b, L) -> Cut"""
    if padding is None:
        return cut
    return replace(cut, valid=cut.valid & padding.bool().to(cut.columns.device).gather(1, cut.columns))


def last_columns(mask: Tensor, width: int | None) -> Tensor:
    """The last `width` columns of a mask, or all if `width` is None. (..., l) -> (..., width)"""
    return mask if width is None else mask[..., -width:]


def last_queries(mask: Tensor, queries: int) -> Tensor:
    """The rows of an attention mask's last queries. A padding mask stays as it is. (b, 1, q, l) -> (b, 1, queries, l)

    Late layers of some decoders (Gemma 4) run only on the last tokens of a prompt.
    """
    return mask if mask.ndim == 2 else mask[:, :, -queries:]


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a bool mask into one that is added to attention scores, unless `dtype` is bool. (b, 1, q, l) -> same"""
    if dtype == torch.bool:
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, forbidden(dtype))


def allowed_by(mask: Tensor) -> Tensor:
    """True for the columns that a bool or an additive mask lets each query attend to. (b, 1, q, l) -> bool"""
    return mask if mask.dtype == torch.bool else mask == 0


def with_scores(mask: Tensor, scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Add 0 or more to the scores of a mask's last queries and columns. What the mask hides stays hidden.

    (b or 1, 1, q, l) bool or additive, (b, q' or 1, l') -> (b, 1, q, l) additive
    """
    if mask.dtype == torch.bool:
        mask = additive(mask, dtype)
    mask = mask.expand(scores.shape[0], -1, -1, -1).clone()
    width, queries = min(scores.shape[2], mask.shape[3]), min(scores.shape[1], mask.shape[2])
    rows = slice(None) if scores.shape[1] == 1 else slice(mask.shape[2] - queries, None)
    mask[:, 0, rows, mask.shape[3] - width :] += scores[:, -queries:, -width:].to(mask.dtype)
    return mask


def of_kernel(cut: Cut, queries: int, window: int | None, dtype: torch.dtype, *, flash: bool) -> Tensor | None:
    """The mask of a layer whose attention kernel is causal by itself: None unless a row is padded.

    If `flash` is True, the kernel takes a padding mask. -> (b, l) or (b, 1, queries, l)
    """
    if not cut.ragged:
        return None
    return cut.valid if flash else additive(cut.allowed(queries, window), dtype)


def anew(cut: Cut, like: Tensor, queries: int, window: int | None, width: int | None) -> Tensor:
    """Build a mask of the kind of `like` from the cut alone. -> (b, width) or (b, 1, queries, width)"""
    if like.ndim == 2:
        return last_columns(cut.valid, width).to(like.dtype)
    return additive(last_columns(cut.allowed(queries, window), width), like.dtype)


def anew_with(cut: Cut, fresh: Cut, mask: Tensor, queries: int, window: int | None, width: int | None) -> Tensor:
    """Build an attention mask from the cut, and also allow all pairs of new tokens that the model's mask allows.

    `fresh` is the cut of this forward's tokens. `mask` (b, 1, q, t) is the model's own: in some models the tokens of an
    image attend to all of that image. -> (b, 1, queries, width)
    """
    allowed = cut.allowed(queries, window)
    own = fresh.mask_rows(fresh.mask_columns(mask[..., -fresh.length :]))
    allowed[..., -queries:] |= allowed_by(own)
    return additive(last_columns(allowed, width), mask.dtype)
