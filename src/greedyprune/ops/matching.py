"""Matching rows by cosine: find the most similar rows, drop the most redundant, merge the most similar.

All cosines are float64, a block of rows at a time, so no n x n matrix exists. Cosines within `SLACK` of each other are
ties (see `ranking.py`). A zero row has cosine 0 with every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks
from greedyprune.ops.cosine import SLACK, cosine64, unit64
from greedyprune.ops.ranking import ranked

LISTED = 64
"""The number of similar rows that are listed per row, to drop duplicates."""


def most_similar(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of each row of x with a row of y, and that row of y. (r, d), (s, d) -> 2 x (r,)"""
    units = unit64(y)
    values: list[Tensor] = []
    places: list[Tensor] = []
    for some in in_blocks(torch.arange(x.shape[0], device=x.device), y.shape[0]):
        cosines = (unit64(x[some]) @ units.T).clamp_(-1, 1)
        values.append(cosines.amax(1))
        places.append((cosines >= values[-1][:, None] - SLACK).to(torch.uint8).argmax(1))
    return torch.cat(values), torch.cat(places)


def largest_with_others(x: Tensor) -> Tensor:
    """The largest cosine of each row with another row; -1 if there is no other. (n, d) -> (n,)"""
    units = unit64(x)
    found: list[Tensor] = []
    for some in in_blocks(torch.arange(x.shape[0], device=x.device), x.shape[0]):
        cosines = (units[some] @ units.T).clamp_(-1, 1)
        found.append(cosines.scatter_(1, some[:, None], -1.0).amax(1))
    return torch.cat(found)


def nearest_others(x: Tensor, rows: Tensor, count: int) -> Tensor:
    """The `count` other rows most similar to each of some rows, the most similar first. (n, d), (r,) -> (r, count)"""
    units = unit64(x)
    found: list[Tensor] = []
    for some in in_blocks(rows, x.shape[0]):
        cosines = (units[some] @ units.T).clamp_(-1, 1).scatter_(1, some[:, None], -2.0)
        found.append(ranked(cosines)[:, :count])
    return torch.cat(found)


def least_similar(x: Tensor, pivots: Tensor, quotas: Sequence[int], taken: Tensor) -> tuple[Tensor, Tensor]:
    """Take for each pivot in turn its quota of the free rows least similar to it. (n, d), (p, d), (t,) -> 2 x (q,)

    Returns the rows in the order taken, and their distances 1 - cosine from the pivot. q is the sum of the quotas.
    """
    distances = 1 - cosine64(pivots, x)
    distances[:, taken] = -torch.inf
    rows: list[Tensor] = []
    gains: list[Tensor] = []
    for own, quota in zip(distances, quotas, strict=True):
        rows.append(ranked(own)[:quota])
        gains.append(own[rows[-1]])
        distances[:, rows[-1]] = -torch.inf
    return torch.cat(rows), torch.cat(gains)


# Dropping duplicates ------------------------------------------------------------------------------------------------


def thin(x: Tensor, order: Tensor, keep: int, drop: int, *, mixed: bool = False) -> Tensor:
    """Drop duplicates until `keep` rows are left. (n, d), (c,) -> (keep,) in the given order

    Each round looks at the rows at even places (0, 2, ...) of those left. It drops the `drop` rows (fewer in the last
    round) whose largest cosine with a row at an odd place is highest. Of equally redundant rows it drops later ones.
    The others keep the given order. If `mixed`, those at even places go to the front, the most redundant first.
    Cost O(c^2 d) once, then O(c) per round; memory O(c d). The rounds run on the CPU and wait for no device.
    """
    left = torch.arange(order.shape[0], device="cpu")
    if keep in (0, left.shape[0]):
        return order[:keep]
    similar = _Similar(unit64(x[order]))
    while keep < left.shape[0]:
        even = left[::2]
        number = min(drop, left.shape[0] - keep, even.shape[0])
        redundant = even.flip(0)[ranked(similar.largest(left).flip(0))]
        gone, rest = redundant[:number], redundant[number:]
        left = torch.cat([rest, left[1::2]]) if mixed else left[~torch.isin(left, gone)]
    return order[left.sort().values.to(order.device)]


class _Similar:
    """Lists of every row's most similar rows. A round reads the first one at an odd place instead of all cosines.

    A row outside a list is less similar than every row in it. If a list has no row at an odd place left, it is rebuilt.
    """

    def __init__(self, units: Tensor) -> None:
        self.units = units
        n = units.shape[0]
        width = min(LISTED + 1, n)  # the row itself is in it, too
        self.values = torch.empty(n, width, dtype=torch.float64, device="cpu")
        self.rows = torch.empty(n, width, dtype=torch.int64, device="cpu")
        every = torch.arange(n, device="cpu")
        self._list(every, every)

    def largest(self, left: Tensor) -> Tensor:
        """The largest cosine of each row at an even place with a row at an odd one. (l,) -> (l / 2,)"""
        even = left[::2]
        odd = torch.zeros(self.units.shape[0], dtype=torch.bool, device="cpu")
        odd[left[1::2]] = True
        hits = odd[self.rows[even]]
        values = self.values[even].gather(1, hits.to(torch.uint8).argmax(1, keepdim=True))[:, 0]
        lost = ~hits.any(1)
        if bool(lost.any()):
            values[lost] = self._list(even[lost], left)
        return values

    def _list(self, rows: Tensor, left: Tensor) -> Tensor:
        """Rebuild the lists of some rows from those left. Their largest cosines with odd places. (r,) -> (r,)"""
        among, device = self.units[left.to(self.units.device)], self.units.device
        count = min(self.rows.shape[1], left.shape[0])
        largest: list[Tensor] = []
        for some in in_blocks(rows, left.shape[0]):
            cosines = (self.units[some.to(device)] @ among.T).clamp_(-1, 1)
            top = cosines.topk(count)
            self.values[some, :count], self.rows[some, :count] = top.values.cpu(), left[top.indices.cpu()]
            largest.append((cosines[:, 1::2].amax(1) if left.shape[0] > 1 else cosines[:, 0]).cpu())
        return torch.cat(largest)


# Merging ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Merged:
    """The clusters that rows were merged into."""

    rows: Tensor
    """(k,) the representative row of each cluster, ascending."""
    of: Tensor
    """(n,) the cluster of each row, as a place in `rows`."""


def merge_most_similar(x: Tensor, k: int) -> Merged:
    """Bipartite soft matching, in rounds until k clusters are left, 0 < k <= n. (n, d) -> Merged

    A round pairs every cluster at an even place with the most similar one at an odd place. It merges the most similar
    pairs, as many as needed, at most half of the clusters. A merged cluster takes the place of its odd member. It is
    compared by the mean of all its rows, which equals the size-weighted mean of means.
    Cost O(n^2 d), memory O(n d).
    """
    sums, rows = x.double(), torch.arange(x.shape[0], device=x.device)  # a sum has the cosines of its mean
    of = rows
    while rows.shape[0] > k:
        m = rows.shape[0]
        here = torch.arange(m, device=x.device)
        values, partner = most_similar(sums[::2], sums[1::2])
        gone = ranked(values)[: min(m // 2, m - k)]
        into = here.clone()
        into[2 * gone] = 2 * partner[gone] + 1
        stays = into == here
        sums = torch.zeros_like(sums).index_add_(0, into, sums)[stays]
        rows = rows[stays]
        of = (stays.cumsum(0) - 1)[into][of]
    return Merged(rows, of)
