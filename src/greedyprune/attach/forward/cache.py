"""KV cache layers that hold fewer tokens but keep the original numbering.

After a cut, a layer's keys and values hold fewer tokens than the prompt had. Such a layer reports the original length,
so generation, positions and multi-turn slicing need no change. It also shifts the mask by the number of dropped tokens,
so masks have the physical width. The class is a mixin before the layer's own class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from greedyprune.attach.context import FORWARD
from greedyprune.models.reads import layers_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers.cache_utils import Cache

    from greedyprune.ops.cut import Cut

    Base = DynamicLayer
else:
    Base = object


Result = TypeVar("Result")


class ShortLayer(Base):
    """The mixin. logical length = physical length + dropped tokens. Pickle keeps the layer's own class and the cut."""

    _layer_type = None  # transformers registers subclasses by this name; classes made at run time must not register
    cut: Cut | None = None
    """The cut that shortened this layer. None in the layers before the cut, which hold every token."""
    place: str = ""
    """The place of the cut, as text. A later turn must cut there too."""
    prompt: int = 0
    """The logical length up to the end of the last prompt that was cut."""

    dropped: int = 0
    """The number of tokens that the cut dropped from this layer. Nothing changes it but `reset`."""

    def _physically(self, own: Callable[[int], Result], argument: int) -> Result:
        """Call a method of the parent class, which computes with the physical length: the layer reports that one."""
        dropped, self.dropped = self.dropped, 0
        try:
            return own(argument)
        finally:
            self.dropped = dropped

    def get_seq_length(self) -> int:
        """Return the logical length."""
        physical = super().get_seq_length()
        return physical + self.dropped if physical else physical

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the physical width of the mask, and the offset of its first column in the logical numbering."""
        if self.prompt and ((forward := FORWARD.get()) is None or self not in layers_of(forward.cache)):
            raise RuntimeError(
                "this cache was filled while the model was pruned and is short: prune the model again, "
                "or start with an empty cache."
            )
        width, offset = self._physically(super().get_mask_sizes, query_length)
        return width, offset + self.dropped

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end, never from the pruned prompt.

        `-n` removes n tokens; a positive `n` (old releases of transformers) keeps n.
        """
        length = self.get_seq_length()
        remove = length - tokens_to_remove if tokens_to_remove > 0 else -tokens_to_remove
        if remove > length - self.prompt:
            raise ValueError(
                f"cannot crop {remove} tokens from a cache whose last {length - self.prompt} came after the pruned "
                "prompt: dropped visual tokens cannot be brought back, so start again from an empty cache."
            )
        if remove >= 0:  # also for 0: a sliding layer that recorded its past then forgets tokens outside the window
            self._physically(super().crop, -remove)
        if self.cut is not None and self.cut.length > length - remove:  # draft tokens that were read with the prompt
            left = self.cut.columns.shape[1] - (self.cut.length - (length - remove))
            columns, valid = self.cut.columns[:, :left], self.cut.valid[:, :left]
            self.cut = replace(self.cut, length=length - remove, columns=columns, valid=valid)

    def reset(self) -> None:
        """Forget the tokens and the cut."""
        self.cut, self.prompt, self.dropped = None, 0, 0
        super().reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the batch, and the cut with it."""
        super().reorder_cache(beam_idx)  # pyright: ignore[reportArgumentType]
        self._follow(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch, and of the cut."""
        super().batch_select_indices(indices)
        self._follow(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch, and of the cut."""
        super().batch_repeat_interleave(repeats)
        if self.cut is not None:
            rows = self.cut.columns.new_tensor(range(self.cut.columns.shape[0])).repeat_interleave(repeats)
            self._follow(rows)

    def _follow(self, rows: Tensor) -> None:
        if self.cut is not None:
            self.cut = self.cut.of_rows(rows)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class was made at run time, so pickle cannot import it: its base can be imported.
        return _empty_short, (type(self).__bases__[1],), self.__dict__


_SHORT: dict[type, type[ShortLayer]] = {}


def _empty_short(base: type) -> ShortLayer:
    """Make a short layer of this class of cache layers, without any state."""
    if base not in _SHORT:
        _SHORT[base] = type(f"Short{base.__name__}", (ShortLayer, base), {"__module__": __name__})
    return object.__new__(_SHORT[base])


def is_plain(layer: object) -> bool:
    """True for a cache layer that holds every key and value as it got them, though it may be short."""
    return type(layer) is DynamicLayer or type(layer) is _SHORT.get(DynamicLayer)


def shorten(cache: Cache, index: int, cut: Cut | None, place: str, prompt: int, early: Cut | None = None) -> None:
    """Give cache layer `index` the logical length of a cut. Its tensors are short already, unless `early` cuts them."""
    layer = cache.layers[index]
    if not isinstance(layer, CacheLayerMixin):  # it keeps a recurrent state and counts no tokens
        return
    if not isinstance(layer, ShortLayer):
        # A class cannot be changed in place (object layouts differ), so a new object takes over the whole state.
        short: Any = _empty_short(type(layer))
        short.__dict__ = layer.__dict__
        layer = cache.layers[index] = short
    if early is not None:
        assert layer.keys is not None
        assert layer.values is not None
        layer.keys, layer.values = early.heads(layer.keys), early.heads(layer.values)
    layer.cut, layer.place, layer.prompt = cut, place, prompt
    layer.dropped = 0 if cut is None else cut.dropped


@dataclass(eq=False)
class Held:
    """The cuts that the layers of a cache carry, read once per forward."""

    cuts: list[Cut | None]
    """Per layer, None for a layer that holds every token."""
    place: str | None = None
    """The place where the prompt in this cache was cut, None if it was not."""
    ragged: bool = False
    """True if any layer holds padding."""
    shifted: bool = False
    """True if any layer has compact positions."""

    @classmethod
    def by(cls, cache: Any) -> Held:
        """Read the cuts of this cache. Every step of decoding asks."""
        layers = layers_of(cache)
        held = cls([layer.cut if isinstance(layer, ShortLayer) else None for layer in layers])
        for layer in layers:
            if isinstance(layer, ShortLayer) and layer.prompt:
                held.place = layer.place
                break
        for cut in {*held.cuts}:  # most layers hold the same cut
            if cut is not None:
                held.ragged, held.shifted = held.ragged or cut.ragged, held.shifted or cut.shift is not None
        return held

    def cut_at(self, index: int) -> Cut | None:
        """The cut of one layer, None if it holds every token or if there is no such layer."""
        return self.cuts[index] if index < len(self.cuts) else None

    @property
    def cut_once(self) -> bool:
        """True if the prompt was cut before one layer alone, so that all short layers have the same length."""
        return "," not in (self.place or "")


def bytes_of(cache: Any) -> tuple[int, int]:
    """Return the bytes of the keys and values, and the bytes that the full logical length would take."""
    held = full = 0
    for layer in layers_of(cache):
        if not isinstance(layer, CacheLayerMixin) or not layer.is_initialized or layer.keys is None:
            continue
        size, length = _bytes(layer.keys) + _bytes(layer.values), layer.get_seq_length()
        for name in ("_quantized_keys", "_quantized_values"):
            if name in vars(layer):
                size += _bytes(vars(layer)[name])
        physical = length - (layer.dropped if isinstance(layer, ShortLayer) else 0)
        if isinstance(layer, DynamicSlidingWindowLayer):
            length, physical = min(length, layer.sliding_window - 1), layer.keys.shape[-2]
        held += size
        full += size * length // max(physical, 1)
    return held, full


def _bytes(value: Any) -> int:
    """Count the bytes of a tensor, or of the tensors in a nested list: quantised tensors come with their scales."""
    if isinstance(value, (tuple, list)):
        return sum(map(_bytes, cast("list[Any]", value)))
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0  # torch.compile knows no nbytes
