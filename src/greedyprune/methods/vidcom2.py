"""VidCom2: unusual frames of a video get more of the budget, and in each frame the unusual tokens stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Cues, Grid, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.groups import best_of_each, counts, proportions, without
from greedyprune.ops.ranking import ranked
from greedyprune.ops.split import split
from greedyprune.ops.video import likeness, quiet_channels
from greedyprune.stages import Input, Stage


@dataclass(frozen=True, kw_only=True)
class VidCom2(Method):
    """Share k between frames in proportion to 1 + u_f - mean(u), and keep in each frame the least similar tokens.

        gp.prune(model, gp.VidCom2(), keep=gp.Ratio(0.25))

    Tokens are the half of the channels that vary least, scaled to length 1. g and g' are a token's Gaussian similarity
    to the mean of the video and to that of its frame, summed over bandwidths from 1/8 to 2. u = softmax(-m / 0.01) over
    frames, with m_f the mean of g in frame f. Inside a frame, tokens with the lowest g + g' stay. It uses neither text
    nor attention. Gains are -(g + g'). Xuyang Liu et al., EMNLP 2025.

    Differs: frames share exactly k by largest remainder; the source rounds in each frame. Tokens that a full frame
    cannot take go to the others. Protected tokens are taken first and the rest of k is shared. An image is one frame:
    the k tokens farthest from its mean stay. All is float64; similarities within 1e-12 are ties, which go to the lowest
    index.
    Cost: O(n d) and O(n log n).
    """

    needs: ClassVar[tuple[Need, ...]] = (Grid(),)
    equivariant: ClassVar[bool] = False
    compares_frames: ClassVar[bool] = True

    at: Stage = Input()
    channels: float = 0.5
    """The share of the channels that is used, those with the lowest variance."""
    temperature: float = 0.01
    """If it is lower, the frame that is least similar to the video gets more of the budget."""

    def __post_init__(self) -> None:
        if not 0 < self.channels <= 1:
            raise ValueError(f"channels={self.channels!r} is no share of the channels: write a number up to 1.")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature!r}: write a number above 0, 0.01 is published.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        assert cues.grid is not None
        frames = cues.grid[0]
        to_video, to_frame = likeness(cues.features[:, quiet_channels(cues.features, self.channels)], cues.grid)
        unlike = (-to_video.view(frames, -1).mean(1) / self.temperature).softmax(0)
        worth = -(to_video + to_frame)
        free = without(ranked(worth), cues.protect)
        frame = torch.arange(cues.n, device=worth.device) // (cues.n // frames)
        left = k - (cues.n - free.shape[0])
        budgets = split(left, proportions(1 + unlike - unlike.mean()), at_most=counts(frame, free, frames))
        order = protected_first(best_of_each(free, frame, budgets), cues.protect)
        return Keep.from_order(order, worth[order], cues.n)
