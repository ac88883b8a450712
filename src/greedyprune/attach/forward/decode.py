"""A forward without new images over a cache that holds a pruned prompt: one step of decoding, or a turn of text.

The cache layers behind the cut are physically short. If all layers are equally short, the model makes masks that fit
and nothing is left to do. Otherwise each decoder layer gets the mask, and if needed the positions, of its own cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from greedyprune.attach.forward.cache import cut_of, is_cut_once, is_ragged, is_shifted, place_of
from greedyprune.models.reads import layers_of
from greedyprune.ops.cut import Cut, uncut
from greedyprune.ops.masks import anew, last_queries, of_kernel, padded, padding_mask

if TYPE_CHECKING:
    from greedyprune.attach.context import Forward
    from greedyprune.models.parts import Kind


@dataclass(eq=False)
class TextInputs:
    """What the text model is called with in this forward, and what its cache holds."""

    forward: Forward
    past: int
    """The tokens that came before this forward, in the original numbering."""
    length: int
    """The tokens of this forward, before any cut."""
    padding: Tensor | None
    """(b, past + q) the padding mask as the caller gave it."""
    positions: Tensor | None
    """The position ids, (b, q) or (3, b, q)."""
    outer_masks: bool
    """True if the outer model made the attention masks, which the text model only passes on."""
    memo: dict[tuple[object, ...], tuple[Any, Any]] = field(default_factory=dict[tuple[object, ...], tuple[Any, Any]])
    """Values that many layers share, by what they are, each with the value that it was made from."""

    @classmethod
    def read(cls, forward: Forward, arguments: dict[str, Any]) -> TextInputs | None:
        """From the text model's arguments; None if nothing is to be cut and nothing was cut: as without pruning."""
        cache, mask = forward.cache, arguments.get("attention_mask")
        if not forward.brings_images and place_of(cache) is None:
            return None
        # The paged cache of generate_batch, which text may use, holds many prompts and has no length.
        past = 0 if cache is None else cache.get_seq_length() if hasattr(cache, "get_seq_length") else 1
        outer_masks = mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2)
        padding = forward.mask if outer_masks else mask
        length = arguments["inputs_embeds"].shape[1]
        return cls(forward, past, length, padding, arguments.get("position_ids"), outer_masks)

    @property
    def total(self) -> int:
        """The tokens up to the end of this forward, in the original numbering."""
        return self.past + self.length

    @property
    def must_rebuild_masks(self) -> bool:
        """True if a mask cannot be cut: layers need different ones, or the outer model made it before the cut."""
        return self.outer_masks or not self.forward.parts.plain

    @property
    def padding_now(self) -> Tensor | None:
        """This forward's part of the padding mask, None if there is no mask. -> (b, q) bool"""
        return None if self.padding is None else self.padding[:, self.past : self.total].bool()

    def own_positions(self, device: torch.device) -> Tensor:
        """The position ids of this forward's tokens, as the text model gets them or counts them. -> (b, q)"""
        if self.positions is not None:
            return self.positions
        return torch.arange(self.past, self.total, device=device)[None]

    def made(self, key: tuple[object, ...], source: object) -> Any:
        """The shared value of this name if it was made from this very source; None if it has to be made."""
        found = self.memo.get(key)
        return found[1] if found is not None and found[0] is source else None

    def share(self, key: tuple[object, ...], source: object, value: Any) -> Any:
        """Note a value for the layers that ask for it after this one, and return it."""
        self.memo[key] = source, value
        return value

    def fit_to_cache(self, arguments: dict[str, Any], *, unmasked: bool) -> None:
        """Make mask and positions, from which the model makes those of all layers, fit a cache that is short already.

        `unmasked`: no layer would mask anything, so that no mask is needed.
        """
        parts, mask = self.forward.parts, arguments.get("attention_mask")
        base, first = cut_of(self.forward.cache, parts.full), cut_of(self.forward.cache, parts.first)
        if unmasked:
            arguments["attention_mask"] = None
        elif base is not None and not self.outer_masks and (mask is not None or base.ragged):
            arguments["attention_mask"] = base.padding_mask(mask, self.total)
        if first is not None and first.shift is not None:
            device = arguments["inputs_embeds"].device
            arguments["position_ids"] = self.own_positions(device) - first.shift.to(device)

    def nothing_masked(self, mask: Tensor | None) -> bool:
        """True if no layer would mask padding, of the prompt or of what came since. `mask` (b, past + q)

        The model asks the same of the mask that it gets, unless its attention is eager. So this is no further
        synchronisation of the device, and without a mask there is less to do.
        """
        parts = self.forward.parts
        if self.outer_masks or parts.attention == "eager" or is_ragged(self.forward.cache):
            return False
        base = cut_of(self.forward.cache, parts.full)
        return mask is None or bool(mask[:, 0 if base is None else base.length :].all())

    def keys_of(self, index: int) -> int:
        """The layer whose keys decoder layer `index` reads: another one of its kind if it has none (Gemma 4)."""
        layers = layers_of(self.forward.cache)
        own = index < len(layers) and isinstance(layers[index], CacheLayerMixin)
        return index if own or not layers else self.forward.parts.kinds[index].first

    def width_of(self, index: int, queries: int) -> int | None:
        """The columns that a mask of decoder layer `index` has; None if no cache says so."""
        layers, index = layers_of(self.forward.cache), self.keys_of(index)
        return layers[index].get_mask_sizes(queries)[0] if index < len(layers) else None

    def rebuilt(self, held: Cut | None, index: int, mask: Tensor, hidden: Tensor) -> Tensor:
        """A mask of the kind of `mask` for a layer whose cache holds the cut `held`, None for a cache that is full."""
        queries = hidden.shape[1]
        kind, key = self.forward.parts.kinds[index], ("rebuilt", held, self.forward.parts.kinds[index].name)
        found = self.made(key, mask)
        if found is None:
            whole = uncut(self.total, hidden.shape[0], None, hidden.device) if held is None else held.grown(self.total)
            cut = padded(whole, self.padding)
            found = self.share(key, mask, anew(cut, mask, queries, kind.window, self.width_of(index, queries)))
        return found

    def kernel_mask(self, cut: Cut, kind: Kind, hidden: Tensor) -> Tensor | None:
        """The mask of a layer that left causality to its attention kernel; None if no row is padded."""
        if not cut.ragged:
            return None
        key = ("kernel", cut, kind.name)
        found = self.made(key, cut)
        if found is None:
            flash = "flash" in self.forward.parts.attention
            mask = of_kernel(cut, hidden.shape[1], kind.window, hidden.dtype, flash=flash)
            found = self.share(key, cut, mask)
        return last_queries(found, hidden.shape[1])


@dataclass(frozen=True)
class LayerEdits:
    """The decoder layers in which a forward over short cache layers has something to do.

    | masks_fit | numbered | unmasked | layers to edit             |
    |-----------|----------|----------|----------------------------|
    | yes       | yes      | any      | none                       |
    | no        | yes      | yes      | those that get a mask      |
    | no        | yes      | no       | all                        |
    | any       | no       | any      | all                        |
    """

    masks_fit: bool
    """The masks that the model makes have the width of every layer's cache."""
    numbered: bool
    """The position ids that the model uses are those of every layer."""
    unmasked: bool
    """The model was given no mask, since nothing would be masked."""

    @property
    def none(self) -> bool:
        """True if no layer needs an edit."""
        return self.masks_fit and self.numbered

    @property
    def only_masked(self) -> bool:
        """True if a layer that gets no mask needs no edit."""
        return self.numbered and (self.masks_fit or self.unmasked)


@dataclass(eq=False)
class Decode:
    """The work of one forward without new images over a cache with short layers."""

    text: TextInputs
    edits: LayerEdits
    skips_unmasked: bool
    """True if there is nothing to do in a layer that gets no attention mask."""

    @classmethod
    def begin(cls, text: TextInputs, arguments: dict[str, Any]) -> Decode | None:
        """Edit the text model's arguments; the work that is left in the decoder layers, None if there is none."""
        forward, parts = text.forward, text.forward.parts
        unmasked = text.nothing_masked(arguments.get("attention_mask"))
        text.fit_to_cache(arguments, unmasked=unmasked)
        first = cut_of(forward.cache, parts.first)
        is_padded = text.padding is not None or (first is not None and first.ragged)
        edits = LayerEdits(
            masks_fit=first is not None and is_cut_once(forward.cache) and not (text.outer_masks and is_padded),
            numbered=(first is not None and first.shift is not None) or not is_shifted(forward.cache),
            unmasked=unmasked,
        )
        return None if edits.none else cls(text, edits, edits.only_masked)

    def before_layer(self, index: int, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Give decoder layer `index` the mask of its own cache, and the positions that it counts in."""
        text, hidden = self.text, arguments["hidden_states"]
        held = cut_of(text.forward.cache, index)
        first = cut_of(text.forward.cache, text.forward.parts.first)
        if held is not None and held.shift is not None and (first is None or first.shift is None):
            self._renumber(index, held.shift, arguments, hidden)
        mask = arguments.get("attention_mask")
        arguments["attention_mask"] = mask_of(text, index, mask, hidden, masks_fit=self.edits.masks_fit)
        return arguments

    def after_layer(self, index: int, output: Tensor) -> Tensor | None:
        """Nothing: new images alone bring features for layers."""
        return None

    def _renumber(self, index: int, shift: Tensor, arguments: dict[str, Any], hidden: Tensor) -> None:
        """Give a layer behind a cut with compact positions the positions that its cache counts in."""
        text, key = self.text, ("shifted", shift, self.text.forward.parts.kinds[index].name)
        found = text.made(key, arguments["position_embeddings"])
        if found is None:
            ids = text.own_positions(hidden.device) - shift.to(hidden.device)
            pair = ids, text.forward.parts.rotate(hidden, ids, index)
            found = text.share(key, arguments["position_embeddings"], pair)
        arguments["position_ids"], arguments["position_embeddings"] = found


def mask_of(text: TextInputs, index: int, mask: Tensor | None, hidden: Tensor, *, masks_fit: bool) -> Tensor | None:
    """The mask of decoder layer `index` over its own cache, whose tokens all stay. `mask`: the one that it got.

    `masks_fit`: the model's masks have the width of every layer's cache. (b, q, d) -> (b, l), (b, 1, q, l) or None
    """
    parts, cache = text.forward.parts, text.forward.cache
    kind = parts.kinds[index]
    if kind.recurrent:
        return mask
    held = cut_of(cache, text.keys_of(index))
    if held is None:  # the model may have made its masks for layers that are short, as this one is not
        wrong = mask is not None and cut_of(cache, parts.full) is not None
        return text.rebuilt(None, index, mask, hidden) if wrong and mask is not None else mask
    if mask is None and not held.ragged:
        return None  # nothing to mask: the usual step costs one look
    if mask is not None and masks_fit:
        return mask
    if mask is not None and text.must_rebuild_masks:
        return last_queries(text.rebuilt(held, index, mask, hidden), hidden.shape[1])
    grown = text.made(("grown", held), held)
    if grown is None:
        grown = text.share(("grown", held), held, held.grown(text.total))
    if mask is None:
        return text.kernel_mask(grown, kind, hidden)
    cut = text.made(("cut", grown), mask)
    if cut is None:
        cut = text.share(
            ("cut", grown), mask, padding_mask(grown, mask) if mask.ndim == 2 else grown.mask_columns(mask)
        )
    return cut


def held_before(text: TextInputs, layer: int, device: torch.device, *, compact: bool) -> Cut:
    """What cache layer `layer` held before this forward, as a cut of the `past` original columns.

    `compact`: positions are compact, so that the cut carries a shift.
    """
    forward, kinds = text.forward, text.forward.parts.kinds
    # Layers that carry a state hold no tokens: the next one behind them does.
    layer = next((i for i in range(layer, len(kinds)) if not kinds[i].recurrent), layer)
    before = cut_of(forward.cache, layer)
    if before is not None:
        return before.grown(text.past)
    batch = forward.ids.shape[0]
    earlier = uncut(text.past, batch, text.padding, device)
    return replace(earlier, shift=torch.zeros(batch, 1, dtype=torch.int64, device=device)) if compact else earlier
