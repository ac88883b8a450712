"""Saliencies: what may be a token's saliency in methods that weigh tokens. Each is a word and one line of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch

from greedyprune.cues import Attention, Change, Grid, Keys, Text, Values
from greedyprune.method import Method
from greedyprune.shown import shown
from greedyprune.stages import Input, Layer, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.cues import Cues, Need

Worth = Literal["cosine", "tower", "attention", "question_attention", "key_norm", "value_norm", "change"]
Words = Literal["last", "question_mean", "question_max", "chat_max"]

NEEDS: dict[Worth, Need] = {
    "cosine": Text(),
    "tower": Attention("tower"),
    "attention": Attention("last_text"),
    "question_attention": Attention("question"),
    "key_norm": Keys("decoder"),
    "value_norm": Values(),
    "change": Change(),
}
"""The cue that each saliency is read from. If that has several numbers of a token, the saliency is their length."""


@dataclass(frozen=True, kw_only=True)
class Weighing(Method):
    """A method that weighs tokens. Its options say what a token's saliency is, and its needs follow from them.

    MMR(saliency="key_norm").needs  # (Keys("decoder"),)
    """

    text: Words = "last"
    """The text of the cosine: the last prompt token; the mean of the question's tokens, or the most similar of them; or
    the most similar token of the chat, which is all text from the image's question to the end of the prompt."""
    saliency: Worth = "cosine"
    """A token's saliency:

    - "cosine": its cosine with a text row, which `text` names;
    - "tower": the attention that it gets in the vision tower, from the class token if there is one, else from all;
    - "attention": the attention that the last prompt token pays to it, in the decoder layer before the cut;
    - "question_attention": the same, the mean over the question's tokens;
    - "key_norm", "value_norm": the length of its key or value in that layer, all heads together;
    - "change": the length of what that layer adds to its state."""

    def __post_init__(self) -> None:
        for name, choices in (("saliency", Worth), ("text", Words)):
            if (given := getattr(self, name)) not in get_args(choices):
                raise ValueError(f"{name}={shown(given)} is unknown: choose one of {', '.join(get_args(choices))}.")
        if self.saliency != "cosine" and self.text != type(self).text:
            raise ValueError(
                f'text={self.text!r} is read by saliency="cosine" alone: leave it out with {self.saliency!r}.'
            )

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The cue of its saliency."""
        return (NEEDS[self.saliency],)

    @property
    def reads(self) -> frozenset[str]:
        """The tokens, and what the saliency is read from: the last text row, the question, the chat, or another cue."""
        asked = {"last": "last_text", "chat_max": "chat"}.get(self.text, "question")
        return frozenset(asked if word == "text" else word for word in super().reads)


@dataclass(frozen=True, kw_only=True)
class MergingFrames(Weighing):
    """A method that weighs the tokens of a clip, compares its frames, and merges tokens over them.

    FastVID().needs  # (Grid(), Attention("tower"))
    """

    stages: ClassVar[tuple[type[Stage], ...]] = (Input, Layer)
    equivariant: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    compares_frames: ClassVar[bool] = True

    at: Stage = Input()
    saliency: Worth = "tower"

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The grid, and the cue of its saliency."""
        return (Grid(), *super().needs)


def read_saliency(saliency: Worth, cues: Cues) -> Tensor | None:
    """The saliency of every token in float64; None for the cosine, which the method computes itself. -> (n,)"""
    if saliency == "cosine":
        return None
    values = cues[NEEDS[saliency]].double()
    return values if values.ndim == 1 else lengths(values.flatten(1))


def lengths(rows: Tensor) -> Tensor:
    """The length of every row; in units of the largest entry if one would overflow. (n, c) -> (n,)"""
    largest = rows.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    lengths = (rows / largest).square().sum(1).sqrt()
    scaled = lengths * largest
    return torch.where(scaled.isfinite().all(), scaled, lengths)
