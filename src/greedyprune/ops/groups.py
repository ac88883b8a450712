"""Groups of tokens with one budget per group: runs of the sequence, frames, crops, clusters.

`group` (n,) is the number of each token's group, 0 the first. A ranking lists tokens, the best one first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from greedyprune.ops.cosine import UnitRows
from greedyprune.ops.suppression import suppress
from greedyprune.ops.threshold import Threshold


def without(ranking: Tensor, rows: Tensor | None) -> Tensor:
    """Remove some rows from a ranking. (c,), (p,) -> (c' <= c,)"""
    return ranking if rows is None else ranking[~torch.isin(ranking, rows)]


def counts(group: Tensor, rows: Tensor, groups: int) -> list[int]:
    """The number of these rows in each group. (n,), (r,) -> (groups)"""
    return cast("list[int]", group[rows].bincount(minlength=groups).tolist())  # pyright: ignore[reportUnknownMemberType]


def proportions(scores: Tensor) -> list[float]:
    """Each score as a share of their sum, to 12 digits, so that rounding never decides a remainder. (g,) -> (g)

    Scores below 0 count as 0. If all are 0, so are the shares.
    """
    scores = scores.double().clamp_min(0)
    shares = (scores / scores.sum()).nan_to_num(0.0)
    return [round(share, 12) for share in cast("list[float]", shares.tolist())]  # pyright: ignore[reportUnknownMemberType]


def best_of_each(ranking: Tensor, group: Tensor, budgets: Sequence[int]) -> Tensor:
    """The best rows of each group, up to its budget, group by group. (c,), (n,) -> (r,)"""
    number = group[ranking]
    order = number.argsort(stable=True)
    ranking, number = ranking[order], number[order]
    sizes = number.bincount(minlength=len(budgets))
    place = torch.arange(ranking.shape[0], device=ranking.device) - (sizes.cumsum(0) - sizes)[number]
    return ranking[place < torch.tensor(budgets, device=ranking.device)[number]]


def suppress_in_each(
    x: Tensor, ranking: Tensor, group: Tensor, tau: float | Threshold, k: int, *, given: Tensor | None = None
) -> Tensor:
    """Run suppression inside each group. The survivors, group by group. (n, d), (c,), (n,) -> (m,)

    A threshold rule gets the group's own rows and the budget k of all groups. `given` rows (not in `ranking`) suppress
    in their group as if taken first, and are not returned.
    """
    given = ranking.new_empty(0) if given is None else given
    left: list[Tensor] = []
    for number in cast("list[int]", group[ranking].unique().tolist()):  # pyright: ignore[reportUnknownMemberType]
        guard, free = (rows[group[rows] == number] for rows in (given, ranking))
        mine = UnitRows(x[torch.cat([guard, free])])
        order = torch.arange(mine.x.shape[0], device=ranking.device)
        first, rest = order[: guard.shape[0]], order[guard.shape[0] :]
        limit = tau if isinstance(tau, (int, float)) else tau(mine, rest, k, first)
        found = suppress(mine, rest, limit, order.shape[0], given=first)
        left.append(free[found.order[guard.shape[0] :] - guard.shape[0]])
    return torch.cat(left) if left else ranking
