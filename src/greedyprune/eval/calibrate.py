"""Calibrate: measure the attention that each place of an image gets on average, for `gp.D2Pruner(bias=...)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from greedyprune.attach.handle import prune
from greedyprune.checks import is_count
from greedyprune.cues import Cues, Need
from greedyprune.eval.engine import few_logits
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.methods.d2pruner import LOOK
from greedyprune.models.parts import find_parts
from greedyprune.ops.places import PositionBias
from greedyprune.stages import Layer, Stage

LEAST = 50
"""The number of images below which a mean is refused. The authors of D2Pruner take 1000."""

Seen = list[tuple[Tensor, tuple[int, int, int] | None]]
"""The attention of each image's tokens, (n,) float64 on the CPU, and its grid."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Note(Method):
    """A method that notes the attention of every image, and keeps the first tokens."""

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer,)

    at: Stage = Layer(2)
    seen: Seen

    def select(self, cues: Cues, k: int) -> Keep:
        """Note the cue. (n, d) -> Keep"""
        self.seen.append((cues[LOOK].double().cpu(), cues.grid))
        order = torch.arange(k, device=cues.features.device)
        return Keep.from_order(order, torch.zeros(k, device=order.device), cues.n)


def calibrate(
    model: Any, prompts: Iterable[Mapping[str, Any]], *, at: Stage | str | None = None, least: int = LEAST
) -> PositionBias:
    """Measure the attention that each place of an image gets on average, whatever the image shows.

        prompts = (processor(images=image, text=text, return_tensors="pt").to(model.device) for image in images)
        bias = gp.calibrate(model, prompts)
        with gp.prune(model, gp.D2Pruner(bias=bias), keep=64):
            out = model.generate(**inputs)

    - `prompts`: what the processor returned, for many images and one general question, such as "Describe the image."
      They are read one at a time, so a generator will do. A prompt may hold several images or rows.
    - `at`: the place at which D2Pruner will cut, by default its own, `Layer(2)`. The attention is that of the decoder
      layer before it.
    - `least`: the number of images below which a mean says little, so it is an error.

    b_i is the mean over images of the last prompt token's attention to place i, mean over heads. Images of another grid
    than the first are read off on its grid bilinearly; their attention is scaled, so that an image weighs as much at
    any size. A bias belongs to this model, this layer and this question. `gp.to_plain(bias)` is for a file.

    Raises ValueError for too few images, for a clip, and for images without a grid that differ in size; and what
    `prune` raises if this model cannot give its attention. Source: D2Pruner (arXiv 2512.19443), with 1000 images of
    COCO. Cost: one forward for each prompt.
    """
    if not is_count(least, 1):
        raise ValueError(f"least={least!r}: write the number of images that a mean needs, 1 or more.")
    seen: Seen = []
    with prune(model, _Note(seen=seen), 1, at=at), torch.no_grad():
        few = few_logits(model, find_parts(model))
        for prompt in prompts:
            model(**prompt, **few)
    if len(seen) < least:
        raise ValueError(
            f"these prompts hold {len(seen)} images, too few for a mean over images: pass {least} or more (the authors "
            "of D2Pruner take 1000), or least=... if you know that fewer do."
        )
    return _mean(seen)


def _mean(seen: Seen) -> PositionBias:
    """The mean over images, on the grid of the first one."""
    first, grid = seen[0]
    total = torch.zeros_like(first)
    for number, (values, own) in enumerate(seen):
        if own is not None and own[0] > 1:
            raise ValueError(f"image {number} is a clip of {own[0]} frames: calibrate with single images.")
        if (own is None or grid is None) and (own is not grid or values.shape != first.shape):
            raise ValueError(
                f"image {number} has {values.shape[0]} visual tokens on the grid {own}, and the first has "
                f"{first.shape[0]} on {grid}: without a grid, as with several tiles, all images must be of one size."
            )
        if own is not None and grid is not None and own != grid:
            whole = values.view(1, 1, *own[1:])
            shown = interpolate(whole, grid[1:], mode="bilinear", align_corners=False).flatten()
            values = shown * (values.sum() / shown.sum().clamp_min(torch.finfo(torch.float64).tiny))
        total += values
    found = cast("list[float]", (total / len(seen)).tolist())  # pyright: ignore[reportUnknownMemberType]
    return PositionBias(tuple(found), None if grid is None else grid[1:])
