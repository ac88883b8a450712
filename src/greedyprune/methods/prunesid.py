"""PruneSID: group tokens by principal component, drop similar ones inside each group, and keep some of every group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Attention, Cues, Encoded, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.groups import best_of_each, counts, suppress_in_each, without
from greedyprune.ops.spectrum import principal_groups
from greedyprune.ops.split import split
from greedyprune.ops.threshold import MeanScaled, Quantile
from greedyprune.stages import Input, Stage

LOOK, ROWS = Attention("tower"), Encoded()


@dataclass(frozen=True, kw_only=True)
class PruneSID(Method):
    """Suppress similar tokens inside each of k / 4 groups, and keep the most attended survivors of every group.

        gp.prune(model, gp.PruneSID(), keep=64)

    The tokens are the vision tower's rows f_i. A token's group is the one of the first k / 4 principal components of
    sigmoid(f) on which it lies farthest from the mean. Inside a group, go from the most attended token down; pass over
    a token if its cosine with one taken is above k / 32 times the group's mean cosine. Groups share k by their size;
    each gets at least 1 and at most its survivors. Gains are the class token's attention. Zhengyao Fang et al.,
    ICLR 2026.

    Differs: if the tower has no class token, the mean attention of all its tokens is used. Principal components are
    exact, in float64. The class token is no visual token here and takes no part of the budget. If all groups have fewer
    than k survivors, the most attended of the others fill the budget. The division of k by group sizes is ours (largest
    remainder). Protected tokens suppress in their group and are taken first. Ties go to the lowest index. Cost: one
    query at one layer of the tower, O(n^2 d), and one symmetric eigenproblem of size min(n, d).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, ROWS)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()
    per_group: int = 4
    """The number of kept tokens per group: there are k / per_group groups."""
    tau: float | Quantile | MeanScaled = MeanScaled()
    """The largest cosine of two survivors of a group: a number, or a rule for the group's own rows."""

    def __post_init__(self) -> None:
        if isinstance(self.per_group, bool) or not isinstance(self.per_group, int) or self.per_group < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"per_group={self.per_group!r}: write the number of kept tokens per group, 1 or more.")
        number = isinstance(self.tau, (int, float)) and not isinstance(self.tau, bool)
        if not isinstance(self.tau, (Quantile, MeanScaled)) and not (number and self.tau >= -1):
            raise ValueError(f"tau={self.tau!r} is no cosine: write a number from -1 to 1, or MeanScaled().")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        look, rows = cues[LOOK], cues[ROWS]
        groups = max(1, k // self.per_group)
        group = principal_groups(rows.double().sigmoid(), groups)
        free = without(look.sort(descending=True, stable=True).indices, cues.protect)
        left = k - (cues.n - free.shape[0])
        alive = suppress_in_each(rows, free, group, self.tau, k, given=cues.protect)
        room = counts(group, alive, groups)
        budgets = split(min(left, sum(room)), counts(group, free, groups), at_least=1, at_most=room)
        own = best_of_each(alive, group, budgets)
        order = protected_first(torch.cat([own, without(free, own)[: left - own.shape[0]]]), cues.protect)
        taken = k - left + own.shape[0]
        return Keep.from_order(order, look[order], cues.n, before_fallback=taken)
