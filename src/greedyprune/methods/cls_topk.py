"""CLS top-k: keep the patches that get most attention from the vision tower's class token (FasterVLM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Attention, Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.stages import Input, Stage

LOOK = Attention("cls")


@dataclass(frozen=True, kw_only=True)
class ClsTopK(Method):
    """Top-k by a_i, the softmax attention of the class token to patch i, mean over heads. It ignores the question.

        gp.prune(model, gp.ClsTopK(), keep=64)

    The layer is the one whose output the projector reads (the last but one in LLaVA-1.5). Gains are the attention
    weights. FasterVLM, Qizhe Zhang et al., arXiv 2412.01818; VisionZip ranks its dominant tokens in the same way.

    Differs: the one row is recomputed from that layer's queries and keys, so attention kernels that return no weights
    stay on. Tokens are dropped after the projector, whose rows do not depend on each other. Kept tokens keep their
    original positions. Ties go to the lowest index. The tower needs a class token. If patches are merged into a token,
    its attention is their sum. Cost: one query at one layer of the tower, and O(n log n).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        ranking = cues[LOOK].sort(descending=True, stable=True).indices
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, cues[LOOK][order], cues.n)
