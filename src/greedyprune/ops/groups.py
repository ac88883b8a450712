"""Groups of tokens with one budget per group: runs of the sequence, frames, crops, clusters.

`group` (n,) is the number of each token's group, 0 the first. A ranking lists tokens, the best one first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from greedyprune.ops.suppression import suppress


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


def budgets_of_survivors(k: int, alive: Sequence[int], sizes: Sequence[int], most: int) -> list[int]:
    """Divide k between groups: 1 for each, the rest in the proportion of their survivors. 2 x (g,) -> (g,)

    The rest is rounded along the sum of the groups before, so the parts need no remainder. A group gets at most `most`
    rows, and at most its survivors. If that is too few for k + 1 rows, all limits rise together, up to the sizes. What
    full groups cannot take goes to those with most survivors.
    """
    limits = [min(most, left, size) for left, size in zip(alive, sizes, strict=True)]
    while sum(limits) < min(k + 1, sum(sizes)):
        limits = [min(limit + 1, size) for limit, size in zip(limits, sizes, strict=True)]
    filled = [group for group, size in enumerate(sizes) if size][:k]
    ends = [round((k - len(filled)) * sum(alive[: group + 1]) / max(sum(alive), 1)) for group in range(len(sizes))]
    parts = [end - before for end, before in zip(ends, [0, *ends], strict=False)]
    parts = [min(part + (group in filled), limits[group]) for group, part in enumerate(parts)]
    for group in sorted(range(len(sizes)), key=lambda group: -alive[group]):
        parts[group] += min(limits[group] - parts[group], k - sum(parts))
    return parts


def suppress_in_each(x: Tensor, ranking: Tensor, group: Tensor, tau: float, *, given: Tensor | None = None) -> Tensor:
    """Run suppression inside each group. The survivors, group by group. (n, d), (c,), (n,) -> (m,)

    `given` rows (not in `ranking`) suppress in their group as if taken first, and are not returned.
    """
    given = ranking.new_empty(0) if given is None else given
    left: list[Tensor] = []
    for number in cast("list[int]", group[ranking].unique().tolist()):  # pyright: ignore[reportUnknownMemberType]
        guard, free = (rows[group[rows] == number] for rows in (given, ranking))
        order = torch.arange(guard.shape[0] + free.shape[0], device=ranking.device)
        first, rest = order[: guard.shape[0]], order[guard.shape[0] :]
        found = suppress(x[torch.cat([guard, free])], rest, tau, order.shape[0], given=first)
        left.append(free[found.order[guard.shape[0] :] - guard.shape[0]])
    return torch.cat(left) if left else ranking
