"""FastVID: cut a clip into scenes, keep the attended tokens of every frame, and merge the others into few of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from greedyprune.checks import check_cosine, check_share, check_whole
from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.ops.clusters import density_peaks
from greedyprune.ops.groups import without
from greedyprune.ops.merging import alone, merged
from greedyprune.ops.ranking import ranked
from greedyprune.ops.relevance import weighed
from greedyprune.ops.scenes import anchored, joined_by
from greedyprune.ops.split import level
from greedyprune.ops.video import segments
from greedyprune.saliencies import MergingFrames


@dataclass(frozen=True, kw_only=True)
class FastVID(MergingFrames):
    """Salient tokens: the most attended of every frame. Context tokens: means of the others, in some frames of a scene.

        gp.prune(model, gp.FastVID(), keep=gp.Ratio(0.1))
        gp.prune(model, gp.FastVID(saliency="attention"), keep=gp.Ratio(0.1), at=gp.Layer(2))

    A clip is cut into scenes where the cosine of two consecutive frames, each the mean of its tokens, is below 0.9, and
    at the lowest cosines until there are 8. Frames share k equally. Of a frame's r tokens, floor(0.4 r) are context and
    the others salient. The context tokens of a scene stand in its anchor frames: the last one, and every fourth before
    it. They are the anchor's tokens with the largest ρ δ, by density (DPC-kNN of 4 neighbours). In each anchor, all
    tokens of the scene that are not salient join the most similar context token, by cosine. If m join x, itself among
    them, it becomes w x + (1 - w) times their mean, w = max(0.6, 1 / (m + 1)). Gains are saliencies. Leqi Shen et al.,
    NeurIPS 2025.

    Differs: frames are compared by the mean of their tokens, as in the released code for Qwen2.5-VL. Its code for
    LLaVA-OneVision takes SigLIP's pooling head, which such checkpoints lack, and ranks tokens by the attention of that
    head. Here that is the attention in the vision tower: of its class token, else the mean over all its tokens. Any
    other `saliency` may rank them. Frames and anchors share exactly k, where the source rounds down. If anchors cannot
    hold the context tokens, the scene's other frames get more salient ones. Equal densities are not told apart by
    random noise. A clip of up to 8 frames has a scene for each; the source fails below 8. An image is one frame. If all
    tokens stay, none is merged. Cost: one query at one layer of the tower, and O(n h w d).
    """

    scenes: int = 8
    """The least number of scenes of a clip that has so many frames."""
    tau: float = 0.9
    """A cut is where the cosine of two frames is below this."""
    context: float = 0.4
    """The share of a frame's tokens that are context."""
    every: int = 4
    """Every so many frames of a scene is an anchor, counted from its last one."""
    beta: float = 0.6
    """The least weight of the token itself in a context token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("scenes", self.scenes)
        check_whole("every", self.every)
        check_cosine("tau", self.tau)
        check_share("context", self.context)
        check_share("beta", self.beta)

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the salient tokens and compute the context tokens. (n, d) -> Keep with weights"""
        assert cues.grid is not None
        worth, size = weighed(self, cues), cues.grid[1] * cues.grid[2]
        if k == cues.n:
            order = ranked(worth)
            return merged(order, worth[order], alone(order, k))
        quotas = level(k, [size] * cues.grid[0])
        salient, contexts, means = list[Tensor](), list[Tensor](), list[Tensor]()
        start = 0
        for length in segments(cues.features, cues.grid, self.scenes, self.tau):
            frames = torch.arange(start * size, (start + length) * size, device=worth.device).view(length, size)
            ranking = frames.gather(1, ranked(worth[frames]))
            own, merging = anchored(quotas[start : start + length], size, self.context, self.every)
            taken = [rows[:count] for rows, count in zip(ranking, own, strict=True)]
            rest = without(frames.flatten(), torch.cat(taken))
            for rows, chosen, count in zip(frames, taken, merging, strict=True):
                if count:
                    left = without(rows, chosen)
                    targets = left[density_peaks(cues.features[left], count, 4, itself=True).centres]
                    contexts.append(targets)
                    means.append(joined_by(cues.features, rest, targets, self.beta))
            salient += taken
            start += length
        order = torch.cat([*salient, *contexts])
        weights = torch.cat([alone(torch.cat(salient), cues.n), *means])
        return merged(order, worth[order], weights)
