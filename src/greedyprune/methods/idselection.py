"""ID-Selection: take the most important token, lower the importance of similar tokens, and repeat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from greedyprune.cues import Cues
from greedyprune.keep import Keep, protected_first
from greedyprune.ops.barrier import check_weight
from greedyprune.ops.ranking import ranked
from greedyprune.ops.relevance import from_0_to_1, weighed
from greedyprune.ops.subtraction import subtract
from greedyprune.saliencies import Weighing, Worth
from greedyprune.stages import Input, Stage


@dataclass(frozen=True, kw_only=True)
class IDSelection(Weighing):
    """Take the token i with the highest score, then s_j <- max(0, s_j - exp(-γ (1 - cos(x_i, x_j))²) s_i). Repeat.

        gp.prune(model, gp.IDSelection(), keep=64)

    A score starts as the token's importance, scaled from 0 for the least to 1 for the most important one of the image.
    So a copy of a kept token has no score left, and a token unlike all kept ones keeps its own: a soft form of
    GreedyPrune's threshold. Gains are scores. Zhaohong Huang et al., arXiv 2604.05601.

    Differs: the source takes cross-modal attention, visual saliency or both for the importance. Here it is the
    attention in the vision tower, or any other `saliency`. The cut is before the decoder, since the source reports over
    97 % fewer FLOPs, which no later cut reaches. Rows are those of the stage. If no token has a score above 0 (1e-12),
    which the source leaves open, the rest are the most important ones, with gains of 0. Protected tokens come first and
    lower the scores of others by theirs. Decisions are those of float64; ties go to the lowest index. Cost: O(k n d).
    Memory: O(n d).
    """

    at: Stage = Input()
    gamma: float = 20.0
    """γ, 0 or more: at 0 a kept token lowers all others by its whole score, at a large number only its copies."""
    saliency: Worth = "tower"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("gamma", self.gamma)

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        worth = weighed(self, cues)
        found = subtract(cues.features, from_0_to_1(worth), k, self.gamma, given=cues.protect)
        own = found.order.shape[0]
        order = protected_first(ranked(worth), found.order)[:k]
        gains = torch.cat([found.gains, found.gains.new_zeros(k - own)])
        return Keep.from_order(order, gains, cues.n, before_fallback=own)
