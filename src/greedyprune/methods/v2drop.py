"""V2Drop: keep the tokens that a decoder layer changes most, fewer at each of three depths. It needs no attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Change, Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.ranking import ranked
from greedyprune.saliencies import read_saliency
from greedyprune.stages import Depths, Layer, Layers, Stage


@dataclass(frozen=True, kw_only=True)
class V2Drop(Method):
    """At three depths: top-k by |h'_i - h_i|, how far the last layer before the cut moves the state of token i.

        gp.prune(model, gp.V2Drop(), keep=64)

    h are the states that enter the layer and h' those that leave it; the length is Euclidean. The published cuts are
    before layers 3, 17 and 22 of 32: n/2 stay after the first and n/4 after the second. No attention is computed, and
    tokens keep their positions, as in the source. Gains are the lengths. Variation-aware Vision Token Dropping, CVPR
    2026, and its released code.

    Differs: k tokens stay after the last cut, where the released code keeps one. If k is more than n/2 or n/4, the cuts
    before leave k. The code has one image of 576 tokens behind 35 of text; here images may be several and of any size.
    Lengths within 1e-12 are ties (above 1, by that share); ties go to the lowest index. Cost: O(n d) per cut.
    """

    needs: ClassVar[tuple[Need, ...]] = (Change(),)
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer, Layers, Depths)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Depths((3 / 32, 17 / 32, 22 / 32))
    halving: bool = True
    """True: each cut but the last keeps half of the tokens before it, as released. False: all keep the same share."""

    def counts(self, k: int, n: int, cuts: int) -> list[int]:
        """The number of n tokens that stay after each cut. -> (cuts)"""
        if not self.halving:
            return super().counts(k, n, cuts)
        return [max(k, n >> cut) for cut in range(1, cuts)] + [k]

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay at one cut. (n, d) -> Keep"""
        worth = read_saliency("change", cues)
        assert worth is not None
        order = protected_first(ranked(worth), cues.protect)[:k]
        return Keep.from_order(order, worth[order], cues.n)
