"""A forward without new images over a KV cache that holds a pruned prompt: one decoding step, or a turn of text.

The cache layers after the cut are physically short. If all layers are equally short, the model's own masks fit and no
layer needs an edit. Otherwise each decoder layer gets the mask, and if needed the positions, of its own cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from greedyprune.attach.forward.cache import Held, is_plain
from greedyprune.models.reads import layers_of
from greedyprune.ops.cut import Cut, uncut
from greedyprune.ops.masks import anew, last_queries, of_kernel, padded, padding_mask

if TYPE_CHECKING:
    from greedyprune.attach.context import Forward, Host
    from greedyprune.models.parts import Kind


@dataclass(eq=False)
class TextInputs:
    """The inputs of the text model in this forward, and the length of its KV cache."""

    forward: Forward
    brings_images: bool
    """True if images come with this forward."""
    held: Held
    """The cuts that the cache carries."""
    past: int
    """The number of tokens before this forward, in the original numbering."""
    length: int
    """The number of tokens of this forward, before any cut."""
    padding: Tensor | None
    """(b, past + q) the padding mask that the caller passed."""
    positions: Tensor | None
    """The position ids, (b, q) or (3, b, q); None if the text model counts them itself."""
    outer_masks: bool
    """True if the outer model made the attention masks. The text model then only passes them to its layers."""
    memo: dict[tuple[object, ...], tuple[Any, Any]] = field(default_factory=dict)
    """Values that several layers share, by key, each with the source that it was made from."""

    @classmethod
    def read(cls, forward: Forward, arguments: dict[str, Any]) -> TextInputs | None:
        """Read the text model's arguments. None if this call brings no images and the KV cache was never cut."""
        cache, mask = forward.cache, arguments.get("attention_mask")
        brings_images, held = bool(forward.places) and forward.brings_images, Held.by(cache)
        if not brings_images and held.place is None:
            return None
        outer_masks = mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2)
        padding = forward.mask if outer_masks else mask
        length = arguments["inputs_embeds"].shape[1]
        positions = arguments.get("position_ids")
        return cls(forward, brings_images, held, forward.past, length, padding, positions, outer_masks)

    @property
    def total(self) -> int:
        """The number of tokens up to the end of this forward, in the original numbering."""
        return self.past + self.length

    @property
    def must_rebuild_masks(self) -> bool:
        """True if a mask cannot be cut: layers need different masks, or the outer model made it before the cut."""
        return self.outer_masks or not self.forward.parts.plain

    @property
    def padding_now(self) -> Tensor | None:
        """This forward's part of the padding mask, (b, q) bool; None if there is no mask."""
        return None if self.padding is None else self.padding[:, self.past : self.total].bool()

    @property
    def may_be_packed(self) -> bool:
        """True if several prompts may be packed in one row: only without a padding mask, or under flash attention."""
        return self.padding is None or "flash" in self.forward.parts.attention

    def on_host(self, host: Host) -> tuple[Tensor, Tensor | None]:
        """Return what is known of this forward's tokens on the CPU: those that are not padding, and the positions.

        -> (b, q) bool; (3, b, q) multimodal positions, (b, q) if they may show packed prompts, else None.
        """
        positions = self.positions
        valid = torch.ones(host.ids.shape, dtype=torch.bool, device="cpu")
        if self.padding is not None:
            valid = host.copy(self.padding)[:, self.past : self.total].bool()
        if positions is None or not (positions.ndim == 3 or self.may_be_packed):
            return valid, None
        return valid, host.copy(positions)

    def in_cache(self, cache: Any, index: int, queries: int) -> tuple[Tensor, Tensor] | None:
        """The keys and values that layer `index` has just put into its cache, (b, g, q, c); None if it holds others."""
        layers = layers_of(cache)
        layer = layers[index] if index < len(layers) else None
        if not is_plain(layer) or layer is None or layer.keys is None or layer.values is None:
            return None
        whole = layer.get_seq_length() == self.past + queries and layer.keys.shape[2] >= queries
        return (layer.keys[:, :, -queries:], layer.values[:, :, -queries:]) if whole else None

    def own_positions(self, device: torch.device) -> Tensor:
        """Return the position ids that the text model gets, or those that it would count itself. -> (b, q)"""
        if self.positions is not None:
            return self.positions
        return torch.arange(self.past, self.total, device=device)[None]

    def made(self, key: tuple[object, ...], source: object) -> Any:
        """Return the shared value of this key if it was made from this very object; None if it must be made."""
        found = self.memo.get(key)
        return found[1] if found is not None and found[0] is source else None

    def share(self, key: tuple[object, ...], source: object, value: Any) -> Any:
        """Store a value for the next layers that need it, and return it."""
        self.memo[key] = source, value
        return value

    def fit_to_cache(self, arguments: dict[str, Any], *, unmasked: bool) -> Cut | None:
        """Make the model's mask and positions fit a KV cache that is short already.

        The model makes the masks and positions of all layers from them. `unmasked`: True if no layer masks anything.
        Return the cut of the first layer with keys; None if it holds every token.
        """
        parts, mask = self.forward.parts, arguments.get("attention_mask")
        base, first = self.held.cut_at(parts.full), self.held.cut_at(parts.first)
        if unmasked:
            arguments["attention_mask"] = None
        elif base is not None and not self.outer_masks and (mask is not None or base.ragged):
            arguments["attention_mask"] = base.padding_mask(mask, self.total)
        if first is not None and first.shift is not None:
            device = arguments["inputs_embeds"].device
            arguments["position_ids"] = self.own_positions(device) - first.shift.to(device)
        return first

    def nothing_masked(self, mask: Tensor | None) -> bool:
        """True if no layer would mask padding, neither of the prompt nor of later tokens. `mask` (b, past + q)

        This reads the mask on the host, which synchronises the device. The model reads it in the same way, unless its
        attention is eager, and it does not if it gets no mask. So the number of synchronisations stays the same.
        """
        parts = self.forward.parts
        if self.held.ragged or self.outer_masks or parts.attention == "eager":  # the last is the dearest
            return False
        base = self.held.cut_at(parts.full)
        return mask is None or bool(mask[:, 0 if base is None else base.length :].all())

    def keys_of(self, index: int) -> int:
        """Return the layer whose keys decoder layer `index` reads: another of its kind if it has no keys (Gemma 4)."""
        layers = layers_of(self.forward.cache)
        own = index < len(layers) and isinstance(layers[index], CacheLayerMixin)
        return index if own or not layers else self.forward.parts.kinds[index].first

    def width_of(self, index: int, queries: int) -> int | None:
        """Return the number of columns in a mask of decoder layer `index`; None if there is no cache layer."""
        layers, index = layers_of(self.forward.cache), self.keys_of(index)
        return layers[index].get_mask_sizes(queries)[0] if index < len(layers) else None

    def rebuilt(self, held: Cut | None, index: int, mask: Tensor, hidden: Tensor) -> Tensor:
        """Build a mask of the same kind as `mask` for a layer whose cache holds the cut `held`; None: a full cache."""
        queries, kind = hidden.shape[1], self.forward.parts.kinds[index]
        key = ("rebuilt", held, kind.name)
        found = self.made(key, mask)
        if found is None:
            whole = uncut(self.total, hidden.shape[0], None, hidden.device) if held is None else held.grown(self.total)
            cut = padded(whole, self.padding)
            found = self.share(key, mask, anew(cut, mask, queries, kind.window, self.width_of(index, queries)))
        return found

    def kernel_mask(self, cut: Cut, kind: Kind, hidden: Tensor) -> Tensor | None:
        """Build the mask of a layer that got none since its kernel is causal; None if no row is padded."""
        if not cut.ragged:
            return None
        key = ("kernel", cut, kind.name)
        found = self.made(key, cut)
        if found is None:
            flash = "flash" in self.forward.parts.attention
            mask = of_kernel(cut, hidden.shape[1], kind.window, hidden.dtype, flash=flash)
            found = self.share(key, cut, mask)
        return last_queries(found, hidden.shape[1])


@dataclass(eq=False)
class LayerEdits:
    """The decoder layers that a forward over short cache layers must edit.

    | masks_fit | numbered | unmasked | layers to edit             |
    |-----------|----------|----------|----------------------------|
    | yes       | yes      | any      | none                       |
    | no        | yes      | yes      | those that get a mask      |
    | no        | yes      | no       | all                        |
    | any       | no       | any      | all                        |
    """

    masks_fit: bool
    """True if the model's masks have the width of every layer's cache."""
    numbered: bool
    """True if the model's position ids are right for every layer."""
    unmasked: bool
    """True if the model gets no mask, since no token would be masked."""

    @property
    def none(self) -> bool:
        """True if no layer needs an edit."""
        return self.masks_fit and self.numbered

    @property
    def only_masked(self) -> bool:
        """True if a layer without a mask needs no edit."""
        return self.numbered and (self.masks_fit or self.unmasked)


@dataclass(eq=False)
class Decode:
    """The work of one forward without new images over a KV cache with short layers."""

    text: TextInputs
    edits: LayerEdits
    skips_unmasked: bool
    """True if a layer without an attention mask needs no edit."""

    @classmethod
    def begin(cls, text: TextInputs, arguments: dict[str, Any]) -> Decode | None:
        """Edit the text model's arguments; the work that is left in the decoder layers, None if there is none."""
        unmasked = text.nothing_masked(arguments.get("attention_mask"))
        first = text.fit_to_cache(arguments, unmasked=unmasked)
        is_padded = text.padding is not None or (first is not None and first.ragged)
        edits = LayerEdits(
            masks_fit=first is not None and text.held.cut_once and not (text.outer_masks and is_padded),
            numbered=(first is not None and first.shift is not None) or not text.held.shifted,
            unmasked=unmasked,
        )
        return None if edits.none else cls(text, edits, edits.only_masked)

    def before_layer(self, index: int, hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
        """Give decoder layer `index` the mask and the positions of its own cache."""
        text = self.text
        held, first = text.held.cut_at(index), text.held.cut_at(text.forward.parts.first)
        if held is not None and held.shift is not None and (first is None or first.shift is None):
            self._renumber(index, hidden, held, held.shift, arguments)
        mask = arguments.get("attention_mask")
        arguments["attention_mask"] = mask_of(text, index, mask, hidden, masks_fit=self.edits.masks_fit)
        return hidden

    def after_layer(self, index: int, output: Tensor) -> Tensor | None:
        """Do nothing: only new images bring features for layers."""
        return None

    def _renumber(self, index: int, hidden: Tensor, held: Cut, shift: Tensor, arguments: dict[str, Any]) -> None:
        """Give a layer behind a cut with compact positions the positions that its cache counts in."""
        text = self.text
        key = ("shifted", held, text.forward.parts.kinds[index].name)
        found = text.made(key, arguments["position_embeddings"])
        if found is None:
            ids = text.own_positions(hidden.device) - shift.to(hidden.device)
            pair = ids, text.forward.parts.rotate(hidden, ids, index)
            found = text.share(key, arguments["position_embeddings"], pair)
        arguments["position_ids"], arguments["position_embeddings"] = found


def mask_of(text: TextInputs, index: int, mask: Tensor | None, hidden: Tensor, *, masks_fit: bool) -> Tensor | None:
    """Return the mask of decoder layer `index` over its own cache, of which all tokens stay.

    `mask`: the mask that the layer got. `masks_fit`: the model's masks have the width of every layer's cache.
    `hidden` (b, q, d) -> (b, l), (b, 1, q, l) or None
    """
    parts = text.forward.parts
    kind = parts.kinds[index]
    if kind.recurrent:
        return mask
    held = text.held.cut_at(text.keys_of(index))
    if held is None:  # the model may have made its masks for layers that are short, as this one is not
        if mask is None or text.held.cut_at(parts.full) is None:
            return mask
        return text.rebuilt(None, index, mask, hidden)
    if mask is None and not held.ragged:
        return None  # nothing to mask: the usual step costs one check
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
    """Return the tokens that cache layer `layer` held before this forward, as a cut of the `past` original columns.

    `compact`: True if positions are compact, so the cut has a shift.
    """
    forward, kinds = text.forward, text.forward.parts.kinds
    # Recurrent layers hold no tokens: take the next layer that does.
    layer = next((i for i in range(layer, len(kinds)) if not kinds[i].recurrent), layer)
    before = text.held.cut_at(layer)
    if before is not None:
        return before.grown(text.past)
    batch = forward.ids.shape[0]
    earlier = uncut(text.past, batch, text.padding, device)
    return replace(earlier, shift=torch.zeros(batch, 1, dtype=torch.int64, device=device)) if compact else earlier
