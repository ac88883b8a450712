"""FlashVID: attended and diverse tokens of every frame, and trees of tokens that change little from frame to frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from greedyprune.checks import check_cosine, check_share, check_whole
from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.ops.barrier import isolated_first
from greedyprune.ops.merging import alone, merged
from greedyprune.ops.relevance import from_0_to_1, weighed
from greedyprune.ops.scenes import merged_trees
from greedyprune.ops.split import level
from greedyprune.ops.video import segments
from greedyprune.saliencies import MergingFrames

LEAST = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, kw_only=True)
class FlashVID(MergingFrames):
    """Take most tokens of a frame by a_i min over kept s of 1 - cos; join the others to trees over time, and merge.

        gp.prune(model, gp.FlashVID(), keep=gp.Ratio(0.125))
        gp.prune(model, gp.FlashVID(saliency="attention"), keep=gp.Ratio(0.125), at=gp.Layer(2))

    a_i is the attention that a token gets in the vision tower. Frames share k equally; of a frame's r, ceil(0.7 r) are
    taken. The first has the largest a_i times its distance from the nearest other token of the frame. Scenes are those
    of FastVID. In a scene, each other token joins the most similar one of the frame before if their cosine is above
    0.8, the most similar pairs first, as long as there are as many trees as tokens to keep. A tree is the mean of its
    tokens, at the place of its first one. The frames of a scene share what is left of its k, one each and then by their
    trees. Each merges its trees into as many clusters by density (DPC-kNN of up to 7 neighbours); a cluster is the mean
    of its trees, at the place of its centre. Gains are saliencies. Ziyang Fan et al., ICLR 2026.

    Differs: k counts what enters the decoder. The source lets 1.25 times its budget enter, and cuts again by attention
    behind layer 20. The attention is that of the tower's class token, else the mean over all its tokens, or any other
    `saliency`; a cosine is scaled to 0..1 first. An option of the source that also weighs tokens by their similarity to
    the scene, off by default, is left out. Shares are exact, where the source rounds up in each frame. The source
    divides the sum of a tree by one more than the number of tokens that joined its first one directly. In a scene of
    one frame, it merges the taken tokens once more. The densities of one cluster are all equal in the source, and
    random noise decides; here 7 neighbours count then. A clip of up to 8 frames has a scene for each; an image is one
    frame. Cost: one query at one layer of the tower, and O(n h w d).
    """

    share: float = 0.7
    """The share of a frame's tokens that is taken and not merged."""
    scenes: int = 8
    """The least number of scenes of a clip that has so many frames."""
    tau: float = 0.9
    """A cut is where the cosine of two frames is below this."""
    joins: float = 0.8
    """A token joins one of the frame before if their cosine is above this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("share", self.share)
        check_whole("scenes", self.scenes)
        check_cosine("tau", self.tau)
        check_cosine("joins", self.joins)

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose tokens of every frame and merge the others. (n, d) -> Keep with weights"""
        assert cues.grid is not None
        (t, h, w), worth = cues.grid, weighed(self, cues)
        worth, size = from_0_to_1(worth) if self.saliency == "cosine" else worth, h * w
        logs = worth.clamp_min(LEAST).log()
        quotas = level(k, [size] * t)
        taken, centres, means = list[Tensor](), list[Tensor](), list[Tensor]()
        start = 0
        for length in segments(cues.features, cues.grid, self.scenes, self.tau):
            rows = torch.arange(start * size, (start + length) * size, device=worth.device)
            free, rest = torch.ones_like(rows, dtype=torch.bool), 0
            for own, quota in zip(rows.view(length, size), quotas[start : start + length], strict=True):
                count = math.ceil(quota * self.share - 1e-9)
                if count:
                    taken.append(own[isolated_first(cues.features[own], logs[own], count).order])
                    free[taken[-1] - start * size] = False
                rest += quota - count
            if rest:
                found, weights = merged_trees(cues.features[rows], (length, h, w), free, rest, self.joins)
                centres.append(rows[found])
                means.append(weights.new_zeros(rest, cues.n).index_copy_(1, rows, weights))
            start += length
        order = torch.cat([*taken, *centres])
        weights = torch.cat([alone(torch.cat([order[:0], *taken]), cues.n), *means])
        return merged(order, worth[order], weights)
