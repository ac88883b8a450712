"""PruneSID: group tokens by principal component, drop similar ones inside each group, and keep some of every group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.checks import is_number
from greedyprune.cues import Attention, Cues, Encoded, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.cosine import UnitRows
from greedyprune.ops.groups import best_of_each, budgets_of_survivors, counts, suppress_in_each, without
from greedyprune.ops.spectrum import principal_groups
from greedyprune.ops.threshold import MeanScaled, Quantile
from greedyprune.stages import Input, Stage

LOOK, ROWS = Attention("tower"), Encoded()


@dataclass(frozen=True, kw_only=True)
class PruneSID(Method):
    """Suppress similar tokens inside each of k / 4 groups, and keep the most attended survivors of every group.

        gp.prune(model, gp.PruneSID(), keep=64)

    The tokens are the vision tower's rows f_i. The principal components of sigmoid(f), channels as samples, are vectors
    of n weights; a token's group is the one of the first k / 4 in which it weighs most. Inside a group, go from the
    most attended token down; pass over a token if its cosine with one taken is above k / 32 times the image's mean
    cosine. Each group gets 1 of k; they share the rest by their survivors, up to 5 ceil(k / 64) each. If survivors are
    too few, the most attended of the others in the groups fill the budget. Gains are the class token's attention.
    Zhengyao Fang et al., ICLR 2026.

    Differs: the source keeps the class token as one of its k, which is no visual token here. So k + 1 stands for k in
    all of these formulas, and the source's 64 are k = 63. Principal components are exact, in float64; the released
    code's are random approximations. If the tower has no class token, the mean attention of all its tokens is used.
    Protected tokens suppress in their group and are taken first. Ties go to the lowest index. Cost: one query at one
    layer of the tower, O(n^2 d), and one symmetric eigenproblem of size min(n, d).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, ROWS)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()
    per_group: int = 4
    """The number of kept tokens per group: there are k / per_group groups."""
    tau: float | Quantile | MeanScaled = MeanScaled()
    """The largest cosine of two survivors of a group: a number, or a rule for the image's rows."""

    def __post_init__(self) -> None:
        if isinstance(self.per_group, bool) or not isinstance(self.per_group, int) or self.per_group < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"per_group={self.per_group!r}: write the number of kept tokens per group, 1 or more.")
        if not isinstance(self.tau, (Quantile, MeanScaled)) and not is_number(self.tau, -1):
            raise ValueError(f"tau={self.tau!r} is no cosine: write a number from -1 to 1, or MeanScaled().")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        look, rows = cues[LOOK], cues[ROWS]
        count = max(1, (k + 1) // self.per_group)
        group = principal_groups(rows.double().sigmoid(), count)
        ranking = look.sort(descending=True, stable=True).indices
        free = without(ranking, cues.protect)
        left = k - (cues.n - free.shape[0])
        tau = self.tau if isinstance(self.tau, (int, float)) else self.tau(UnitRows(rows), ranking, k + 1, None)
        alive = suppress_in_each(rows, free, group, tau, given=cues.protect)
        sizes, survivors = counts(group, free, count), counts(group, alive, count)
        budgets = budgets_of_survivors(left, survivors, sizes, 5 * math.ceil((k + 1) / 64))
        taken = best_of_each(torch.cat([alive, without(free, alive)]), group, budgets)
        own = taken[torch.isin(taken, alive)]
        order = protected_first(torch.cat([own, without(taken, own)]), cues.protect)
        return Keep.from_order(order, look[order], cues.n, before_fallback=k - left + own.shape[0])
