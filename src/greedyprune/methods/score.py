"""SCoRe: take the token with the largest product of its saliency and its distance from the closest kept token."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.ops.barrier import check_weight, log_barrier
from greedyprune.ops.relevance import from_0_to_1, weighed
from greedyprune.saliencies import Weighing, Worth
from greedyprune.stages import Input, Stage

LEAST = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, kw_only=True)
class SCoRe(Weighing):
    """Take the token with the largest a_i, then always the one with the largest a_i^α min over kept s of 1 - cos.

        gp.prune(model, gp.SCoRe(), keep=64)

    a_i is the attention that the token gets in the vision tower, from the class token if there is one. α = 0 is
    farthest-first from the most attended token, a large α is top-k. It is the greedy of weighted k-centre, and in
    logarithms the rule of SoftGreedyPrune with w_i = log a_i and the weight α. Gains are the logarithms of those
    products; the first has no distance. SCoRe (Salience-Coverage Reduction), CVPR 2026.

    Differs: the source prunes in the vision encoder and compares its rows. Here rows are those of the stage, the
    projector's at `Input()`, so that the rule runs at any stage and with any `saliency`; a cosine is scaled to 0..1
    over the image first. A distance 1 - cosine below 1e-12 counts as 1e-12, and a saliency of 0 as 2e-308, so that
    products of 0 are told apart: tokens without attention come last, the farthest first. Protected tokens come first
    and replace the first pick. Decisions are those of float64; ties go to the lowest index. Cost: O(k n d). Memory:
    O(n d).
    """

    at: Stage = Input()
    alpha: float = 0.8
    """α, 0 or more: the exponent of the saliency."""
    saliency: Worth = "tower"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("alpha", self.alpha)

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        worth = weighed(self, cues)
        worth = from_0_to_1(worth) if self.saliency == "cosine" else worth
        given = cues.protect if cues.protect is not None and cues.protect.numel() else None
        found = log_barrier(cues.features, worth.clamp_min(LEAST).log(), k, self.alpha, given=given)
        return Keep.from_order(found.order, found.gains, cues.n)
