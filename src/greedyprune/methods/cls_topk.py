"""CLS top-k: keep the patches that the vision tower's class token looks at most (FasterVLM)."""

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
    """Top-k by a_i, the softmax attention of the class token to patch i, mean over heads, blind to the question.

    The layer is the one whose output the projector reads (the last but one in LLaVA-1.5). Gains are the attention
    weights. FasterVLM, Qizhe Zhang et al., arXiv 2412.01818; VisionZip ranks its dominant tokens alike.

    Differs: the one row is computed again from that layer's queries and keys, so attention kernels that return no
    weights stay on; tokens leave behind the projector, whose rows do not depend on each other; kept tokens keep their
    original positions; ties go to the lowest index. It needs a tower with a class token; where several patches are
    merged into a token, it has the sum of their attention. Cost: one query at one layer of the tower, and O(n log n).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        ranking = cues[LOOK].sort(descending=True, stable=True).indices
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, cues[LOOK][order], cues.n)
