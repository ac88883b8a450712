"""FastV: keep the visual tokens that get most attention from the last prompt token in an early decoder layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Attention, Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.stages import Depths, Layer, Layers, Stage

LOOK = Attention("last_text")


@dataclass(frozen=True, kw_only=True)
class FastV(Method):
    """Top-k by a_i, the softmax attention of the last prompt token to token i in decoder layer K - 1, mean over heads.

        gp.prune(model, gp.FastV(), keep=64)

    Layer K - 1 (0-based) is the last one that runs before the cut at `Layer(K)`; K = 2 is published. Gains are the
    attention weights. Liang Chen et al., ECCV 2024.

    Differs: the one row is recomputed from that layer's queries and keys, so attention kernels that return no weights
    stay on. The user sets k; the paper keeps half. Ties go to the lowest index. It handles several images per prompt,
    batches, and any number of tokens per image. Cost: one decoding step's attention at one layer, and O(n log n).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer, Layers, Depths)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Layer(2)

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        ranking = cues[LOOK].sort(descending=True, stable=True).indices
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, cues[LOOK][order], cues.n)
