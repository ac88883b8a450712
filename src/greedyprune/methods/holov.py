"""HoloV: every run of the image gets a share of the budget, so attention cannot spend all of it in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Attention, Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.groups import best_of_each, counts, proportions, without
from greedyprune.ops.runs import even_runs, run_budgets, run_worth
from greedyprune.stages import Input, Stage

LOOK = Attention("tower")


@dataclass(frozen=True, kw_only=True)
class HoloV(Method):
    """Share k between 16 runs of the raster by their mean score, and keep each run's most attended tokens.

        gp.prune(model, gp.HoloV(), keep=64)

    a_i is the class token's attention. A run's score is the mean of a_i / mean(a) + w v_i / mean(v) over its tokens,
    v_i the variance of the cosines of token i with the tokens of its run. Attention alone decides inside a run. Gains
    are a_i. Xin Zou et al., NeurIPS 2025.

    Differs: w is 0. The source's w is 0.09, but its released code divides each v_i by the mean of its own run, so the
    second term is 0.09 times the first in every run and changes no share. `weight=0.09` gives it an effect: here both
    means are over the image. If the tower has no class token, the mean attention of all its tokens is used. Tokens that
    a full run cannot take go to the others; the released code pads with zero rows. Kept tokens are in raster order, not
    in the order of attention. Protected tokens are taken first and the rest of k is shared. Ties go to the lowest
    index. Cost: one query at one layer of the tower, O(n log n), and O(n^2 d / 16) in float64 if w is not 0.
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)
    equivariant: ClassVar[bool] = False

    at: Stage = Input()
    runs: int = 16
    """The number of runs of neighbouring indices that share the budget."""
    weight: float = 0.0
    """w, the weight of the variance of similarity in a run's score. Attention has weight 1."""

    def __post_init__(self) -> None:
        if isinstance(self.runs, bool) or not isinstance(self.runs, int) or self.runs < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"runs={self.runs!r}: write the number of runs, an int of 1 or more.")
        if not self.weight >= 0:
            raise ValueError(f"weight={self.weight!r}: write a number from 0, such as 0.09.")

    @property
    def reads(self) -> frozenset[str]:
        """The attention, and the tokens if their variance counts."""
        return super().reads if self.weight else super().reads - {"tokens"}

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        look, count = cues[LOOK], min(self.runs, cues.n)
        run = even_runs(cues.n, count, look.device)
        shares = proportions(run_worth(cues.features, look, run, self.weight))
        free = without(look.sort(descending=True, stable=True).indices, cues.protect)
        left = k - (cues.n - free.shape[0])
        budgets = run_budgets(left, shares, counts(run, free, count))
        order = protected_first(best_of_each(free, run, budgets), cues.protect)
        return Keep.from_order(order, look[order], cues.n)
