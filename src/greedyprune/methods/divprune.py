"""DivPrune: keep the subset of visual tokens whose closest pair is as far apart as possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.centre import Centring, check_centring, prepared
from greedyprune.ops.farthest import farthest_first
from greedyprune.stages import Input, Stage


@dataclass(frozen=True, kw_only=True)
class DivPrune(Method):
    """Choose S, |S| = k, that maximises min over pairs in S of 1 - cos(x_i, x_j) (max-min diversity), greedily.

    First the token whose nearest other token is farthest, then always the token that is farthest from its nearest kept
    one. It looks at neither text nor attention. Gains are those distances. Alvar, Singh, Akbari, Zhang, CVPR 2025.

    Differs: kept tokens are never candidates again, so k near n is exact; decisions are those of float64, ties to the
    lowest index; a zero row has cosine 0 with every row; protected tokens come first and stand in for the first pick;
    kept tokens keep their original positions, and newline tokens of tiled images are no candidates; `preprocess` is an
    addition. Cost: O(k n d); the first pick O(n^2 d) at worst, far less where neighbours are alike. Memory: O(n d).
    """

    # Two tokens that are each other's nearest are equally isolated: the first pick of such a pair goes by index.
    equivariant: ClassVar[bool] = False

    at: Stage = Input()
    preprocess: Centring = "none"
    """Before any cosine: nothing, or the mean of the visual tokens off every row ("center", Cen-Prune)."""

    def __post_init__(self) -> None:
        check_centring(self.preprocess)

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        found = farthest_first(prepared(self.preprocess, cues.features), k, given=cues.protect)
        return Keep.from_order(found.order, found.gains, cues.n)
