"""PyramidDrop: keep the tokens most attended by the last prompt token, fewer at each of several depths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Attention, Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.stages import Depths, Layer, Layers, Stage

LOOK = Attention("last_text")


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(Method):
    """At 1/4, 1/2 and 3/4 of the decoder's depth: top-k by the last prompt token's attention, mean over heads.

        gp.prune(model, gp.PyramidDrop(), keep=72)

    Each cut keeps the same share of the tokens before it, so k = n/8 keeps n/2, n/4, n/8, the published schedule
    (layers 8, 16, 24 of 32). Gains are the attention weights. Long Xing et al., CVPR 2025.

    Differs: the attention is that of the last layer before the cut; the source applies the next layer's queries and
    keys to the states. Only one row is computed, so fast attention kernels stay on, as in the source. Shares round to
    the nearest count, not down. Kept tokens keep their original positions; the source closes the gaps after each cut.
    Ties go to the lowest index. It handles batches and any padding. Cost: one decoding step's attention per cut, and
    O(n log n).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer, Layers, Depths)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Depths((1 / 4, 1 / 2, 3 / 4))

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay at one cut. (n, d) -> Keep"""
        ranking = cues[LOOK].sort(descending=True, stable=True).indices
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, cues[LOOK][order], cues.n)
