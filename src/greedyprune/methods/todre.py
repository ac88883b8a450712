"""ToDRE: start from the most attended visual token, then always the token least like all kept ones together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Attention, Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.centre import Centring, check_centring, prepared
from greedyprune.ops.ranking import ranked
from greedyprune.ops.sums import farthest_in_sum
from greedyprune.stages import Input, Stage

LOOK = Attention("tower")


@dataclass(frozen=True, kw_only=True)
class ToDRE(Method):
    """From the pivot on, take argmin over tokens v of the sum over kept c of cos(x_v, x_c) (max-sum diversity).

    The pivot is the token that the vision tower's class token looks at most. Gains are sums of distances 1 - cosine
    from the tokens kept before. Duo Li et al., arXiv 2505.18757.

    Differs: in towers without a class token the attention of all tokens on average stands in; it is stage 1 alone.
    Stage 2, which drops all visual tokens from some later decoder layer on when text and visual tokens no longer look
    at each other, is not done: no k describes it. Protected tokens come first, then the pivot; rows are the
    projector's; ties go to the lowest index; `preprocess` is an addition. Cost: O(k n d). Memory: O(n d).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)

    at: Stage = Input()
    preprocess: Centring = "none"
    """Before any cosine: nothing, or the mean of the visual tokens off every row ("center", Cen-Prune)."""

    def __post_init__(self) -> None:
        check_centring(self.preprocess)

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        start = protected_first(ranked(cues[LOOK])[:1], cues.protect)[:k]
        found = farthest_in_sum(prepared(self.preprocess, cues.features), k, given=start)
        return Keep.from_order(found.order, found.gains, cues.n)
