"""What pruning reads of objects that belong to transformers, as types. `release.py` checks that a release has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


class CacheLayer(Protocol):
    """One layer of a KV cache."""

    keys: Tensor | None
    """(b, g, l, c) of the tokens that it holds, None while it is empty."""
    values: Tensor | None
    is_initialized: bool

    def get_seq_length(self) -> int:
        """The tokens it holds."""
        ...

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The width of a mask for so many queries, and the position of its first column."""
        ...


class DecoderLayer(Protocol):
    """One decoder layer, as far as methods may look into it."""

    input_layernorm: Callable[[Tensor], Tensor]
    self_attn: Any
    """The attention module, with `q_proj`, `k_proj`, `head_dim` and `scaling`."""


def layers_of(cache: object) -> Sequence[CacheLayer]:
    """The layers of a cache; none of a cache that has no layers, or of None."""
    return cast("Sequence[CacheLayer]", getattr(cache, "layers", None) or [])
