"""The relevance of rows: exact cosines with a few other rows, and values scaled to 0..1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks
from greedyprune.ops.cosine import SLACK, unit64
from greedyprune.ops.preprocess import asked
from greedyprune.saliencies import read_saliency

if TYPE_CHECKING:
    from greedyprune.cues import Cues
    from greedyprune.saliencies import Weighing


def cosines_with(x: Tensor, words: Tensor) -> Tensor:
    """Float64 cosines of every row with a few others. (n, d), (m, d) -> (n, m)"""
    target = unit64(words).T
    every = torch.arange(x.shape[0], device=x.device)
    return torch.cat([(unit64(x[some]) @ target).clamp_(-1, 1) for some in in_blocks(every, x.shape[1])])


def weighed(method: Weighing, cues: Cues) -> Tensor:
    """The saliency of every token for a method; cosines are those of the rows as they are. -> (n,)"""
    own = read_saliency(method.saliency, cues)
    return cosines_with(cues.features, asked(method.text, cues.text, cues.question)).amax(1) if own is None else own


def from_0_to_1(values: Tensor) -> Tensor:
    """Scale values from their smallest, 0, to their largest, 1. If all are equal, all are 1. (..., n) -> (..., n)

    Values that differ only by rounding are equal: by `SLACK`, or above 1 by that share of the largest.
    """
    values = values.double()
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    equal = high - low <= SLACK * values.abs().amax(-1, keepdim=True).clamp_min(1.0)
    return torch.where(equal, 1.0, (values - low) / (high - low))
