"""ToDRE: start from the most attended visual token, then add the token least similar to all kept ones together."""

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
    """After the pivot, take argmin over tokens v of the sum over kept c of cos(x_v, x_c) (max-sum diversity).

        gp.prune(model, gp.ToDRE(), keep=64)

    The pivot is the token with the highest attention from the vision tower's class token. Gains are sums of distances
    1 - cosine from the tokens kept before. Duo Li et al., arXiv 2505.18757.

    Differs: if the tower has no class token, the mean attention of all its tokens is used. Only stage 1 is done. Stage
    2 drops all visual tokens from a later decoder layer on, if text and visual tokens no longer attend to each other;
    no k describes it. Protected tokens come first, then the pivot. Rows are the projector's. Ties go to the lowest
    index. `preprocess` is an addition. Cost: O(k n d). Memory: O(n d).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)

    at: Stage = Input()
    preprocess: Centring = "none"
    """Before any cosine: "none" changes no row; "center" subtracts the mean visual token from each row (Cen-Prune)."""

    def __post_init__(self) -> None:
        check_centring(self.preprocess)

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        start = protected_first(ranked(cues[LOOK])[:1], cues.protect)[:k]
        found = farthest_in_sum(prepared(self.preprocess, cues.features), k, given=start)
        return Keep.from_order(found.order, found.gains, cues.n)
