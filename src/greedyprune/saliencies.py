"""Saliencies: what may be a token's saliency in methods that weigh one. Each is one word and one line of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch

from greedyprune.cues import Attention, Keys, Text
from greedyprune.shown import shown

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.cues import Cues, Need

Worth = Literal["cosine", "attention", "question_attention", "key_norm"]
"""A token's saliency:

- "cosine": its cosine with a text row, which the method's `text` names;
- "attention": the attention that the last prompt token pays to it, in the decoder layer before the cut;
- "question_attention": the same, the mean over the question's tokens;
- "key_norm": the length of its key in that layer, all key heads together."""

NEEDS: dict[Worth, Need] = {
    "cosine": Text(),
    "attention": Attention("last_text"),
    "question_attention": Attention("question"),
    "key_norm": Keys("decoder"),
}
"""The cue that each saliency is read from."""


def check_saliency(saliency: str, text: str = "last") -> None:
    """Raise ValueError unless the saliency is known, and reads the text if a text is named."""
    if saliency not in get_args(Worth):
        raise ValueError(f"saliency={shown(saliency)} is unknown: choose one of {', '.join(get_args(Worth))}.")
    if saliency != "cosine" and text != "last":
        raise ValueError(f'text={text!r} is read by saliency="cosine" alone: leave it out with {saliency!r}.')


def read_saliency(saliency: Worth, cues: Cues) -> Tensor | None:
    """The saliency of every token in float64; None for the cosine, which the method computes itself. -> (n,)"""
    if saliency == "cosine":
        return None
    values = cues[NEEDS[saliency]].double()
    return values if values.ndim == 1 else _lengths(values.flatten(1))


def _lengths(keys: Tensor) -> Tensor:
    """The length of every key; in units of the largest entry if one would overflow. (n, c) -> (n,)"""
    largest = keys.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    lengths = (keys / largest).square().sum(1).sqrt()
    scaled = lengths * largest
    return scaled if bool(scaled.isfinite().all()) else lengths
