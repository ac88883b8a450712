"""HoloV: every run of the image gets a share of the budget, so attention cannot spend all of it in one place."""

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

        gp.prune(model, gp.HoloV(), keep=64)

    A token's score is a_i / mean(a) + 0.09 v_i / mean(v). a_i is the class token's attention, v_i the variance of the
    token's cosines with the tokens of its run. Attention alone decides inside a run. Gains are a_i. Xin Zou et al.,
    NeurIPS 2025.

    Differs: if the tower has no class token, the mean attention of all its tokens is used. Budgets are whole numbers by
    largest remainder. Tokens that a full run cannot take go to the others; the official code pads with zero rows. Kept
    tokens are in raster order, not in the order of attention. Runs differ by one token at most if 16 does not divide n.
    Both means are over the image (a factor of the official code that scales both terms is left out). Protected tokens
    are taken first and the rest of k is shared. Ties go to the lowest index. Cost: one query at one layer of the tower,
    O(n^2 d / 16) in float64, and O(n log n).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)
    equivariant: ClassVar[bool] = False

    at: Stage = Input()
    runs: int = 16
    """The number of runs of neighbouring indices that share the budget."""
    weight: float = 0.09
    """The weight of the variance of similarity in a run's share. Attention has weight 1."""

    def __post_init__(self) -> None:
        if isinstance(self.runs, bool) or not isinstance(self.runs, int) or self.runs < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"runs={self.runs!r}: write the number of runs, an int of 1 or more.")
        if not self.weight >= 0:
            raise ValueError(f"weight={self.weight!r}: write a number from 0, 0.09 is published.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        look, count = cues[LOOK], min(self.runs, cues.n)
        run = even_runs(cues.n, count, look.device)
        shares = proportions(run_worth(cues.features, look, run, self.weight))
        free = without(look.sort(descending=True, stable=True).indices, cues.protect)
        left = k - (cues.n - free.shape[0])
        budgets = split(left, shares, at_most=counts(run, free, count))
        order = protected_first(best_of_each(free, run, budgets), cues.protect)
        return Keep.from_order(order, look[order], cues.n)
