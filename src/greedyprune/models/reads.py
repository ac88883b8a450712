"""The attributes that pruning reads on transformers' objects, as types. `release.py` checks that a release has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class CacheLayer(Protocol):
    """One layer of a KV cache."""

    keys: Tensor | None
    """(b, g, l, c) the keys of the tokens that it holds; None while it is empty."""
    values: Tensor | None
    is_initialized: bool

    def get_seq_length(self) -> int:
        """Return the number of tokens that it holds."""
        ...

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the width of a mask for this many queries, and the position of its first column."""
        ...


class DecoderLayer(Protocol):
    """One decoder layer, with the attributes that probes read."""

    self_attn: Any
    """The attention module. `release.py:probe_seams` names what is read of it, and of the norm in front of it."""


def length_of(cache: Any) -> int:
    """Return the number of tokens that a cache holds, 0 without a cache.

    The paged cache of `generate_batch`, which text-only prompts may use, holds many prompts and has no length: 1.
    """
    if cache is None:
        return 0
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 1


def layers_of(cache: object) -> Sequence[CacheLayer]:
    """Return the layers of a cache; empty if the cache has no layers, or is None."""
    layers: Any = getattr(cache, "layers", None)  # no cast: every step of decoding asks
    return layers or []
