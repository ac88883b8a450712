"""The layer of a vision tower that a need names, and a need in words. No model is looked at, and no transformers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from greedyprune.cues import Attention, Change, Encoded, Seen, Values

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS: dict[str, str] = {
    "tower": "the attention inside the vision tower",
    "cls": "the class token's attention",
    "received": "the attention inside the vision tower",
    "last_text": "the last prompt token's attention",
    "question": "the question's attention",
    "raters": "the text raters' attention",
    "image": "the attention of an image's mean query",
}


def told(need: Seen) -> str:
    """Say a need in words, for messages."""
    if isinstance(need, Attention):
        return WORDS.get(need.kind, f"attention of the unknown kind {need.kind!r}")
    if isinstance(need, Encoded):
        return "the vision tower's rows"
    if isinstance(need, Values):
        return "a token's value"
    if isinstance(need, Change):
        return "what a layer adds to a token's state"
    return "the vision tower's keys" if need.where == "tower" else "a token's key"


def tower_layer(need: Seen, config: Any, count: int, *, normed: bool) -> tuple[int | None, str | None]:
    """The layer of a vision tower that a need names, or the reason why there is none.

    - `config`: the model's, which may say which layer's output the projector reads.
    - `count`: the number of the tower's layers.
    - `normed`: True if the projector reads the last layer behind the tower's final norm. Then the layer is None.
    """
    layer = need.layer
    if layer is None:
        # Entry i of a tower's hidden states is the input of layer i, so layer i - 1 made it; -1 is the last output.
        feature = _deepest(config, count)
        if feature == 0:
            one = replace(need, layer=-2)
            return None, f"the projector reads vision_feature_layer={feature!r}, so name one: {one!r}"
        if isinstance(need, Encoded) and feature == -1 and normed:
            return None, None
        layer = feature - 1 if feature > 0 else feature
    if isinstance(layer, float):
        if not 0 <= layer < 1:
            return None, f"layer={layer!r} is no share of the vision tower's depth: write one from 0 to below 1"
        layer = math.floor(layer * count)
    if not -count <= layer < count:
        return None, f"the vision tower has {count} layers and no layer {layer}"
    return layer % count, None


def _deepest(config: Any, count: int) -> int:
    """The entry of the tower's hidden states that the projector reads, the deepest if it reads several (ViP-LLaVA)."""
    read = getattr(config, "vision_feature_layer", getattr(config, "vision_feature_layers", -1))
    if isinstance(read, int):
        return read
    return max(cast("Sequence[int]", read), key=lambda entry: entry % (count + 1))
