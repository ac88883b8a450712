"""Farthest-first traversal: take the row that is farthest from all taken so far, and repeat (greedy max-min).

The distance of two rows is 1 - cosine, so a row's distance from a set is 1 - its largest cosine with it. This distance
falls as rows are taken, as `falling.py` requires. Float64 decides near ties.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks
from greedyprune.ops.cosine import DOUBT, SLACK, UnitRows, cosine64, product
from greedyprune.ops.nearest import Nearest
from greedyprune.ops.picks import Picks, numbers

NEAR = 32
"""The number of consecutive rows that are compared first, since neighbours in an image are similar."""
BLOCK = 256
"""The largest number of rows that are compared with all others at once."""


def farthest_first(x: Tensor | UnitRows, k: int, *, given: Tensor | None = None) -> Picks:
    """Take k rows, 0 < k <= n: first the row whose nearest other row is farthest, then the farthest. (n, d) -> Picks

    `given` rows are taken first, in their order. Ties (within `SLACK` in float64) go to the lowest row. A zero row has
    cosine 0 with every row. A single row has distance 2, the largest possible. Gains are distances from the nearest row
    taken before; the gain of the first row is the distance to its nearest other row.
    Cost O(k n d). The first row costs O(n^2 d) at worst, far less if neighbours are similar. Memory O(n d).
    """
    unit = UnitRows.of(x)
    nearest = Nearest(unit, k)
    starts = numbers(given)
    if starts:
        first = float(_nearest_other(unit, nearest.units, torch.tensor(starts[:1], device=unit.x.device))[0])
    else:
        row, first = _most_isolated(unit, nearest)
        starts = [row]
    for row in starts:
        nearest.give(row)
    nearest.run(k)
    # A key is minus the largest cosine with the rows taken before. The first row has no such cosine.
    gains = [1 - first, *(1 + key for key in nearest.gains[1:])]
    return Picks.of(nearest.taken, gains, unit.x.device)


def _most_isolated(unit: UnitRows, nearest: Nearest) -> tuple[int, float]:
    """The row whose largest cosine with another row is lowest, and that cosine. (n, d) -> row, cosine

    A row is no candidate if one of its cosines is above the lowest known maximum. So most rows are never compared with
    all others. The rows with the lowest maxima go first, and their cosines raise the maxima of all others.
    """
    rows = nearest.units
    n = rows.shape[0]
    if nearest.cosines is not None:
        every = nearest.cosines.clone().fill_diagonal_(-1.0).amax(1)
        return _lowest(unit, rows, every, every <= every.min() + DOUBT)
    near = [rows[start : start + NEAR] for start in range(0, n, NEAR)]
    largest = torch.cat([product(some, some).fill_diagonal_(-1.0).amax(1) for some in near])
    whole = torch.zeros(n, dtype=torch.bool, device=rows.device)
    lowest, size = torch.inf, NEAR
    while True:
        values, some = largest.masked_fill(whole, torch.inf).topk(min(size, n), largest=False)
        some = some[values <= lowest + DOUBT]
        some = some[~whole[some]]
        if not some.numel():
            break
        cosines = product(rows[some], rows).scatter_(1, some[:, None], -1.0)
        torch.maximum(largest, cosines.amax(0), out=largest)
        largest[some] = cosines.amax(1)
        whole[some] = True
        lowest = min(lowest, float(largest[some].min()))
        size = min(2 * size, BLOCK)
    return _lowest(unit, rows, largest, whole & (largest <= lowest + DOUBT))


def _lowest(unit: UnitRows, rows: Tensor, largest: Tensor, may_be: Tensor) -> tuple[int, float]:
    """The row with the lowest of these values, among those that may be it. (n, d), (n, d), 2 (n,) -> row, cosine"""
    doubtful = may_be.nonzero()[:, 0]
    if doubtful.shape[0] == 1:
        return int(doubtful[0]), float(largest[doubtful[0]])
    exact = torch.cat([_nearest_other(unit, rows, some) for some in in_blocks(doubtful, rows.shape[0])])
    place = int((exact <= exact.min() + SLACK).to(torch.uint8).argmax())
    return int(doubtful[place]), float(exact[place])


def _nearest_other(unit: UnitRows, rows: Tensor, some: Tensor) -> Tensor:
    """The largest cosine of some rows with another row, in float64; -1 if there is no other. (n, d), (r,) -> (r,)"""
    cosines = product(rows[some], rows).scatter_(1, some[:, None], -torch.inf)
    near = (cosines >= cosines.amax(1, keepdim=True) - DOUBT).any(0).nonzero()[:, 0]
    exact = cosine64(unit.x[some], unit.x[near])
    return exact.masked_fill_(some[:, None] == near, -1.0).amax(1)
