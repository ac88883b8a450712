"""HiRED: the patches with most attention from the class token, with a budget for each view of an image in crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from greedyprune.cues import Attention, Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.crops import crop_budgets, top_in_crops
from greedyprune.ops.groups import best_of_each, counts, without
from greedyprune.shown import shown
from greedyprune.stages import Input, Stage

LOOK = Attention("tower")
FIRST = Attention("tower", layer=0)
Counted = Literal["crop", "sequence"]


@dataclass(frozen=True, kw_only=True)
class HiRED(Method):
    """Top-k by the class token's attention a_i, in each view of the image up to its own budget.

        gp.prune(model, gp.HiRED(), keep=64)

    With `cues.tiles` the whole view gets αk tokens. The crops share the rest. A crop's share is proportional to its
    number of the whole view's top (1 - α) tokens. The attention of the tower's first layer ranks them. A single view
    is top-k. Gains are a_i of the layer that the projector reads, mean over heads. Arif et al., AAAI 2025.

    Differs: a top token counts for the crop that covers its centre. The released code cuts the raster into as many runs
    as there are crops and counts those; `counted="sequence"` does the same. It rounds each crop's budget down, so fewer
    than k stay. Here the largest remainders fill them up, and tokens that a full view cannot take go to the others, so
    exactly k stay. If the tower has no class token, the mean attention of all its tokens is used. Protected tokens are
    taken first and the rest of k is shared. Ties go to the lowest index. If attention= is given, it is used for both
    layers. Cost: one query at two layers of the tower, and O(n log n).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, FIRST)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()
    alpha: float = 0.5
    """The share of k that the whole view gets if there are crops."""
    counted: Counted = "crop"
    """What a top token counts for: the "crop" that covers it, or its place in the "sequence", as in released code."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha!r} is no share of the budget: write a number from 0 to 1.")
        if self.counted not in get_args(Counted):
            raise ValueError(f"counted={shown(self.counted)} is unknown: choose one of {', '.join(get_args(Counted))}.")

    @property
    def reads(self) -> frozenset[str]:
        """The attention, and the tiles if there are any."""
        return super().reads | {"tiles"}

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        ranking = cues[LOOK].sort(descending=True, stable=True).indices
        if cues.tiles is not None:
            ranking = self._by_view(cues, ranking, k)
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, cues[LOOK][order], cues.n)

    def _by_view(self, cues: Cues, ranking: Tensor, k: int) -> Tensor:
        """The tokens that each view keeps besides protected ones: the whole view's, then crop by crop. (n,) -> (c,)"""
        assert cues.tiles is not None
        view = cues.tiles.crop.to(ranking.device) + 1
        first, tiles = cues[FIRST][view == 0], cues.tiles
        top = top_in_crops(first, 1 - self.alpha, tiles.whole, tiles.layout, in_sequence=self.counted == "sequence")
        free = without(ranking, cues.protect)
        left = k - (cues.n - free.shape[0])
        return best_of_each(free, view, crop_budgets(left, self.alpha, top, counts(view, free, 1 + len(top))))
