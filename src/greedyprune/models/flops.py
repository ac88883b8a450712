"""FLOPs of a decoder, counted from its config and how many tokens each layer sees. A product and a sum are two.

For a layer with q new tokens that look at c tokens, width d, h heads of width e, g key-value heads, and a gated MLP of
width f:

    projections  2 q d e (2 h + 2 g)        attention  4 q c h e        MLP  6 q d f

and 2 d V for the logits of one position. The attention of a prompt is counted over the whole square, as its matrix
products are, although half of it is masked. Norms, rotations, softmax and the vision tower are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """The widths of a decoder."""

    width: int
    heads: int
    groups: int
    head: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any, layer: int = 0) -> Sizes:
        """Read off a model's config, or that of its text model; layers may differ (Gemma 4)."""
        text: Any = config.get_text_config() if hasattr(config, "get_text_config") else config
        if getattr(text, "is_heterogeneous", False):
            text = text.per_layer_config[layer]
        heads = int(text.num_attention_heads)
        return cls(
            int(text.hidden_size),
            heads,
            int(getattr(text, "num_key_value_heads", None) or heads),
            int(getattr(text, "head_dim", None) or text.hidden_size // heads),
            int(text.intermediate_size),
            int(text.vocab_size),
        )

    def layer(self, new: int, seen: int) -> int:
        """One layer, `new` tokens that each look at `seen` tokens."""
        projections = 2 * new * self.width * self.head * (2 * self.heads + 2 * self.groups)
        return projections + 4 * new * seen * self.heads * self.head + 6 * new * self.width * self.inner

    @property
    def logits(self) -> int:
        """The logits of one position."""
        return 2 * self.width * self.vocabulary


def prefill_flops(config: Any, lengths: Sequence[int], past: Sequence[int] | None = None) -> int:
    """A prompt of which decoder layer i sees lengths[i] tokens, and the logits of its last one. (layers,) -> FLOPs

    `past`: what the cache of each layer held before, where a conversation goes on.
    """
    each = [Sizes.of(config, layer) for layer in range(len(lengths))]
    before = past or [0] * len(lengths)
    rows = zip(each, lengths, before, strict=True)
    return sum(sizes.layer(new, new + old) for sizes, new, old in rows) + Sizes.of(config).logits


def decode_flops(config: Any, lengths: Sequence[int]) -> int:
    """One new token after a prompt that left lengths[i] tokens in the cache of layer i. (layers,) -> FLOPs"""
    steps = (Sizes.of(config, layer).layer(1, length + 1) for layer, length in enumerate(lengths))
    return sum(steps) + Sizes.of(config).logits
