"""Attention masks behind a cut: cut from the model's own, or made anew where that was made for other lengths.

A layer that looks at a window counts the tokens that stay, in the prompt as in its cache: so the mask of a sliding
layer is made anew from the cut, and what its own mask allows beyond that (images that see all of themselves) is added.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from greedyprune.attach.cache import cut_of, is_ragged
from greedyprune.ops.cut import Cut, additive, uncut

if TYPE_CHECKING:
    from greedyprune.attach.call import Call, Step
    from greedyprune.models.parts import Kind


def of_prompt(call: Call, step: Step, index: int, mask: Tensor | None, hidden: Tensor) -> Tensor | None:
    """The mask of decoder layer `index` behind the cut of this forward. `hidden` (b, l, d) is cut already."""
    kind = call.parts.kinds[index]
    if kind.recurrent:
        # A layer that carries a state is told what is padding; None where nothing is.
        return step.fresh.valid.long() if step.fresh.ragged and not call.past else None
    if mask is None:
        return _unmasked(call, step.masked, kind, hidden)
    if _misled(call) and mask.ndim == 2:
        return _width(call, index, hidden.shape[1], step.whole.valid).to(mask.dtype)
    if _misled(call):
        return call.once(mask, step, lambda m: _anew(call, step, index, m, hidden))
    if mask.ndim == 2:
        return call.once(mask, step, lambda m: padding(step.masked, m))
    return call.once(mask, step, lambda m: step.fresh.mask_rows(step.masked.mask_columns(m)))


def of_input(call: Call, step: Step, mask: Any, hidden: Tensor) -> Any:
    """The masks that the outer model made, one or one per kind of layer, for a cut before the decoder."""
    if isinstance(mask, dict):
        first = {kind.name: kind.first for kind in call.parts.kinds}
        return {name: of_prompt(call, step, first.get(name, 0), m, hidden) for name, m in mask.items()}
    return of_prompt(call, step, call.parts.full, mask, hidden)


def of_step(call: Call, index: int, mask: Tensor | None, hidden: Tensor) -> Tensor | None:
    """The mask of decoder layer `index` in a forward without new images, over a cache with short layers."""
    kind = call.parts.kinds[index]
    if kind.recurrent:
        return mask
    held = cut_of(call.cache, _lender(call, index))
    if held is None:  # the model may have laid out its masks, or the text model its padding, for layers that are short
        led = mask is not None and cut_of(call.cache, call.parts.full) is not None
        return call.once(mask, kind, lambda m: _whole(call, index, None, m, hidden)) if led else mask
    grown = held.grown
    if mask is None:
        if not held.ragged:
            return None  # nothing to mask: the usual step costs one look
        return _unmasked(call, call.once(held, None, lambda _: grown(call.past + call.length)), kind, hidden)
    if call.fitting:
        return mask  # the model's own masks have the physical width
    if _misled(call):
        return _asked(call.once(held, kind, lambda h: _whole(call, index, h, mask, hidden)), hidden)
    cut = call.once(held, None, lambda _: grown(call.past + call.length))
    if mask.ndim == 2:
        return call.once(mask, cut, lambda m: padding(cut, m))
    return call.once(mask, cut, cut.mask_columns)


def nothing_masked(call: Call, base: Cut | None, mask: Tensor | None) -> bool:
    """Whether no layer of a cut cache would mask padding, of the prompt or of what came since. `mask` (b, past + q)

    `base` is the cut of the layers that the text model's masks are sized on. The model asks the same of the mask that
    it gets (but for eager attention): so this is no further synchronisation, and there is less to do without a mask.
    """
    if call.outer_masks or call.parts.attention == "eager" or is_ragged(call.cache):
        return False
    return mask is None or bool(mask[:, 0 if base is None else base.length :].all())


def padding(cut: Cut, mask: Tensor) -> Tensor:
    """A 2-D mask of the columns that stay, zero where a row is padded. (b, L) -> (b, l)"""
    return (cut.take(mask, -1).bool() & cut.valid.to(mask.device)).to(mask.dtype)


def _misled(call: Call) -> bool:
    """Whether one mask of padding cannot serve all layers, or the outer model's masks did not know of the cut."""
    return call.outer_masks or not call.parts.plain


def _unmasked(call: Call, cut: Cut, kind: Kind, hidden: Tensor) -> Tensor | None:
    """Where the model left causality to the attention kernel: nothing to add, unless a row is padded."""
    if not cut.ragged:
        return None
    if "flash" in call.parts.attention:
        return cut.valid
    queries, dtype = hidden.shape[1], hidden.dtype
    return _asked(call.once(cut, kind, lambda c: additive(c.allowed(queries, kind.window), dtype)), hidden)


def _anew(call: Call, step: Step, index: int, mask: Tensor, hidden: Tensor) -> Tensor:
    """The mask of a prompt made anew, and within this forward whatever the model's own allows. (b, 1, q, t) -> ..."""
    fresh, queries = step.fresh, hidden.shape[1]
    allowed = step.whole.allowed(queries, call.parts.kinds[index].window)
    own = fresh.mask_rows(fresh.mask_columns(mask[..., -call.length :]))
    allowed[..., -queries:] |= own if own.dtype == torch.bool else own == 0
    return additive(_width(call, index, queries, allowed), mask.dtype)


def _whole(call: Call, index: int, held: Cut | None, mask: Tensor, hidden: Tensor) -> Tensor:
    """The mask of a step made anew, padding included. -> (b, 1, q, l), or (b, l) for kernels that take what is valid"""
    total, batch, queries = call.past + call.length, hidden.shape[0], hidden.shape[1]
    cut = uncut(total, batch, None, hidden.device) if held is None else held.grown(total)
    if call.padding is not None:
        given = call.padding.bool().to(cut.columns.device).gather(1, cut.columns)
        cut = replace(cut, valid=cut.valid & given)
    if mask.ndim == 2:
        return _width(call, index, queries, cut.valid).to(mask.dtype)
    allowed = cut.allowed(queries, call.parts.kinds[index].window)
    return additive(_width(call, index, queries, allowed), mask.dtype)


def _asked(mask: Tensor, hidden: Tensor) -> Tensor:
    """The rows of the queries there are: late layers may go on with the last ones (Gemma 4). -> (b, 1, q, l)"""
    return mask if mask.ndim == 2 else mask[:, :, -hidden.shape[1] :]


def _width(call: Call, index: int, queries: int, mask: Tensor) -> Tensor:
    """The columns that the layer's cache holds, with the new ones. (..., l) -> (..., width)"""
    layers, index = getattr(call.cache, "layers", None) or [], _lender(call, index)
    if index >= len(layers):
        return mask
    return mask[..., -layers[index].get_mask_sizes(queries)[0] :]


def _lender(call: Call, index: int) -> int:
    """The layer whose keys decoder layer `index` looks at: another one of its kind where it has none (Gemma 4)."""
    layers = getattr(call.cache, "layers", None) or []
    own = index < len(layers) and isinstance(layers[index], CacheLayerMixin)
    return index if own or not layers else call.parts.kinds[index].first
