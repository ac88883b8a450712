"""HoloV: every run of the image gets a share of the budget, so that attention cannot spend all of it in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Attention, Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.groups import best_of_each, counts, proportions, without
from greedyprune.ops.runs import even_runs, run_worth
from greedyprune.ops.split import split
from greedyprune.stages import Input, Stage

LOOK = Attention("tower")


@dataclass(frozen=True, kw_only=True)
class HoloV(Method):
    """Share k between 16 runs of the raster by their mean score, and keep each run's most attended tokens.

    A token's score is a_i / mean(a) + 0.09 v_i / mean(v): a_i the class token's attention, v_i the variance of its
    cosines with the tokens of its run. Attention alone decides inside a run. Gains are a_i. Xin Zou et al.,
    NeurIPS 2025.

    Differs: in towers without a class token the attention of all tokens on average stands in; budgets are whole numbers
    by largest remainder, and what a full run cannot take goes to the others, where the official code fills up with zero
    rows; kept tokens stand in raster order, not in that of attention; runs differ by one token at most where 16 does
    not divide n; both means are over the image (a factor of the official code that scales both terms is left out);
    protected tokens are taken beforehand and the rest of k is shared; ties go to the lowest index. Cost: one query at
    one layer of the tower, O(n^2 d / 16) in float64, and O(n log n).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)
    equivariant: ClassVar[bool] = False

    at: Stage = Input()
    runs: int = 16
    """How many runs of neighbouring indices share the budget."""
    weight: float = 0.09
    """How much the variance of similarity counts beside attention in a run's share."""

    def __post_init__(self) -> None:
        if isinstance(self.runs, bool) or not isinstance(self.runs, int) or self.runs < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"runs={self.runs!r}: write how many runs share the budget, an int from 1.")
        if not self.weight >= 0:
            raise ValueError(f"weight={self.weight!r}: write a number from 0, 0.09 is published.")

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        look, count = cues[LOOK], min(self.runs, cues.n)
        run = even_runs(cues.n, count, look.device)
        shares = proportions(run_worth(cues.features, look, run, self.weight))
        free = without(look.sort(descending=True, stable=True).indices, cues.protect)
        left = k - (cues.n - free.shape[0])
        budgets = split(left, shares, at_most=counts(run, free, count))
        order = protected_first(best_of_each(free, run, budgets), cues.protect)
        return Keep.from_order(order, look[order], cues.n)
