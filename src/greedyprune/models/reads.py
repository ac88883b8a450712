"""The attributes that pruning reads on transformers' objects, as types. `release.py` checks that a release has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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

    input_layernorm: Callable[[Tensor], Tensor]
    self_attn: Any
    """The attention module, with `q_proj`, `k_proj`, `head_dim` and `scaling`."""


def is_empty(cache: Any) -> bool:
    """True if there is no cache, or if it holds no token yet. A paged cache of many prompts has no length: False."""
    return cache is None or (hasattr(cache, "get_seq_length") and not cache.get_seq_length())


def layers_of(cache: object) -> Sequence[CacheLayer]:
    """Return the layers of a cache; empty if the cache has no layers, or is None."""
    return cast("Sequence[CacheLayer]", getattr(cache, "layers", None) or [])
