"""FLOPs of a decoder, counted from its config and the number of tokens in each layer. A multiply-add counts as two.

A layer has q new tokens that attend to c tokens, width d, h heads of width e, g key-value heads, and a gated MLP of
width f. Its FLOPs are:

    projections  2 q d e (2 h + 2 g)        attention  4 q c h e        MLP  6 q d f

and 2 d V for the logits of one position. The attention of a prompt counts the full square, because its matrix products
compute it, although half of it is masked. The count leaves out norms, rotary embeddings, softmax and the vision tower.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """The widths of a decoder layer, and the size of the vocabulary."""

    width: int
    heads: int
    groups: int
    head: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any, layer: int = 0) -> Sizes:
        """Read the widths of one layer from a model's config. Layers may differ (Gemma 4)."""
        text = _text(config)
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
        """Return the FLOPs of one layer for `new` tokens that each attend to `seen` tokens."""
        projections = 2 * new * self.width * self.head * (2 * self.heads + 2 * self.groups)
        return projections + 4 * new * seen * self.heads * self.head + 6 * new * self.width * self.inner

    @property
    def logits(self) -> int:
        """The FLOPs of the logits of one position."""
        return 2 * self.width * self.vocabulary


def prefill_flops(config: Any, lengths: Sequence[int], past: Sequence[int] | None = None) -> int:
    """Count the FLOPs of a prefill and of the logits of its last token. (layers,) -> FLOPs

    `lengths`: the number of tokens that each decoder layer computes. `past`: the number of tokens of earlier turns in
    the KV cache of each layer.

        prefill_flops(model.config, [640] * 2 + [128] * 30)  # a cut before layer 2
    """
    before = past or [0] * len(lengths)
    return _total(config, [(new, new + old) for new, old in zip(lengths, before, strict=True)])


def decode_flops(config: Any, lengths: Sequence[int]) -> int:
    """Count the FLOPs of one new token. (layers,) -> FLOPs

    `lengths`: the number of tokens that the KV cache of each decoder layer holds.

        decode_flops(model.config, [640] * 2 + [128] * 30)
    """
    return _total(config, [(1, length + 1) for length in lengths])


def _total(config: Any, layers: Sequence[tuple[int, int]]) -> int:
    """Count the FLOPs of all layers and of the logits. `layers`: each one's new tokens, and those they attend to."""
    if getattr(_text(config), "is_heterogeneous", False):
        each = [Sizes.of(config, layer).layer(*tokens) for layer, tokens in enumerate(layers)]
        return sum(each) + Sizes.of(config).logits
    sizes = Sizes.of(config)
    return sum(number * sizes.layer(*tokens) for tokens, number in Counter(layers).items()) + sizes.logits


def _text(config: Any) -> Any:
    """The decoder's part of a model's config."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config
