"""DyToK: frames share the budget by what the question attends to in them, and another method chooses in each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from greedyprune.around import Around
from greedyprune.checks import check_whole
from greedyprune.choosing import select_batch
from greedyprune.cues import Attention, Cues, Grid, Need
from greedyprune.frames import frames, joined
from greedyprune.keep import Keep
from greedyprune.ops.split import split
from greedyprune.ops.video import frame_shares
from greedyprune.shown import shown
from greedyprune.stages import Input, Layer, Stage

Weights = Literal["attention", "relevance"]


@dataclass(frozen=True, kw_only=True)
class DyToK(Around):
    """Share k between frames in proportion to the attention that they get, and let `inner` choose in each frame.

        gp.prune(model, gp.DyToK(inner="divprune"), keep=gp.Ratio(0.25), at=gp.Layer(8))
        gp.prune(model, gp.DyToK(inner="visionzip", weights="relevance"), keep=256, at="input", relevance=[looks])

    The weight of a frame is the attention of the last prompt token to its tokens together, mean over heads and over
    `layers`. `inner` gets the cues of one frame at a time, so every method that chooses from one image can have budgets
    of frames. With `weights="relevance"` the weights are those that you give as `relevance=`, such as the attention of
    a small model; this runs at `Input()`, too. Order and gains are those of `inner`. Yulin Li et al., NeurIPS 2025.

    Differs: the source reads attention in a pass of its own, in all layers of the model or of a small one, and then
    prunes in the vision tower. Here one forward does both, so the attention comes from layers before the cut. The
    source's softmax is over the visual tokens alone. What a full frame cannot take goes to the others in proportion,
    in the source one by one. Its `inner` is VisionZip, which looks into a vision tower; FastV needs none. Protected
    tokens are taken first and the rest of k is shared. An image is one frame. Cost: that of `inner`, and one decoding
    step's attention in each of `layers`.
    """

    stages: ClassVar[tuple[type[Stage], ...]] = (Input, Layer)
    equivariant: ClassVar[bool] = False
    compares_frames: ClassVar[bool] = True

    at: Stage = Layer(2)
    weights: Weights = "attention"
    """What frames share the budget by: the last prompt token's "attention", or the call's `relevance=`."""
    layers: tuple[int, ...] = ()
    """The decoder layers whose attention is averaged. None named: the last one before the cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", tuple(dict.fromkeys(self.layers)))
        for layer in self.layers:
            check_whole("layers", layer, 0)
        if self.weights not in get_args(Weights):
            raise ValueError(f"weights={shown(self.weights)} is unknown: choose one of {', '.join(get_args(Weights))}.")
        if self.layers and self.weights == "relevance":
            raise ValueError(f'layers={self.layers!r} is read by weights="attention" alone: leave it out.')
        if self.inner.compares_frames:
            name = type(self.inner).__name__
            raise ValueError(f'inner={name} compares frames: name a method for images, such as inner="divprune".')

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The grid, the attention that frames share the budget by, and what the inner method needs."""
        layers = () if self.weights == "relevance" else self.layers or (None,)
        looks = [Attention("last_text", layer=layer) for layer in layers]
        return tuple(dict.fromkeys((Grid(), *looks, *self.inner.needs)))

    @property
    def weighs_relevance(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True if frames are weighed by it, or if the inner method uses it."""
        return self.weights == "relevance" or super().weighs_relevance

    @property
    def reads(self) -> frozenset[str]:
        """What is needed, what the inner method reads, and what frames are weighed by."""
        return super().reads | {self.weights}

    def select(self, cues: Cues, k: int) -> Keep:
        """Let the inner method choose in each frame. (n, d) -> Keep"""
        assert cues.grid is not None
        weights = cues.relevance
        if self.weights == "attention":
            looks = self.needs[1 : 1 + max(len(self.layers), 1)]
            weights = torch.stack([cues[look].double() for look in looks]).mean(0)
        if weights is None or bool((weights < 0).any()):
            raise ValueError("DyToK needs weights of 0 or more: pass relevance=, one number for each visual token.")
        parts = frames(cues)
        held = [0 if part.protect is None else part.protect.shape[0] for part in parts]
        room = [part.n - own for part, own in zip(parts, held, strict=True)]
        free = split(k - sum(held), frame_shares(weights, cues.grid), at_most=room)
        return joined(select_batch(self.inner, parts, [own + more for own, more in zip(held, free, strict=True)]))
