"""Greedy suppression in a fixed order: take a token, pass over every later one that is too similar to it, and repeat.

The engine is left-looking and blocked. Each block of candidates is compared only with the taken tokens and with itself.
So the work is about (tokens looked at) x k / 2 pairs instead of all n^2, and tokens after the k-th taken one are never
read. Decisions are those of float64 (see `cosine.py`), so they do not depend on the block size, the thread count or
the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from greedyprune.ops.cosine import DOUBT, SLACK, UnitRows, cosine64, exceeds, gram, product

HALVINGS = 20
GRAM_LIMIT = 8192
"""Above this number of rows the search for a threshold uses no n x n matrix, which would take a quarter gigabyte."""


@dataclass(frozen=True, eq=False)
class Suppressed:
    """The rows that the engine took and passed over."""

    order: Tensor
    """(m,) the rows taken, m <= k, in order, given rows first."""
    by: Tensor
    """(n,) the row that each row was passed over for; -1 if there is none, or if the engine stopped before it."""
    largest: float
    """The largest cosine between two rows taken, -1 if there are fewer than two (float32 accuracy)."""

    def of_dropped(self, kept: Tensor) -> Tensor:
        """`by`, but -1 for rows that a fallback took after all. (k,) -> (n,)"""
        by = self.by.clone()
        by[kept] = -1
        return by


def suppress(
    x: Tensor | UnitRows, order: Tensor, tau: float, k: int, *, given: Tensor | None = None, block: int | None = None
) -> Suppressed:
    """Walk through `order`, take each row whose cosine with every taken row is <= tau, and stop at k.

    (n, d), (c,) -> Suppressed. `given` rows (not in `order`) are taken first, whatever their cosines, and suppress like
    any other. Cost O(V k d) for V rows looked at; memory O(k d + block d). `block` changes only the speed.
    """
    size = block or min(max(k // 2, 64), 256)
    unit = UnitRows.of(x)
    x = unit.x
    taken = order.new_empty(k) if given is None else torch.cat([given, order.new_empty(k - given.shape[0])])
    units = torch.empty(k, x.shape[1], dtype=torch.float32, device=x.device)
    by = order.new_full((x.shape[0],), -1)
    m, largest = 0, -1.0
    if given is not None:
        m = given.shape[0]
        units[:m] = unit[given]
        largest = _largest(gram(units[:m]).fill_diagonal_(-1.0))
    for start in range(0, order.shape[0] if m < k else 0, size):
        rows = order[start : start + size]
        candidates = unit[rows]
        if m:
            left = product(candidates, units[:m])
            hits = exceeds(left, tau, x, rows, taken[:m])
            blocked = hits.any(1)
            # The first hit in the order taken is the one that passes a row over.
            by[rows[blocked]] = taken[hits[blocked].to(torch.uint8).argmax(1)]
            rows, candidates, left = rows[~blocked], candidates[~blocked], left[~blocked]
            if not rows.numel():
                continue
        else:
            left = candidates.new_empty(rows.shape[0], 0)
        among = gram(candidates)
        picks, blockers = _resolve(exceeds(among, tau, x, rows, rows), k - m)
        passed = order.new_tensor([i for i, b in enumerate(blockers) if b >= 0])
        by[rows[passed]] = rows[order.new_tensor([b for b in blockers if b >= 0])]
        new = order.new_tensor(picks)
        taken[m : m + len(picks)], units[m : m + len(picks)] = rows[new], candidates[new]
        largest = max(largest, _largest(left[new]), _largest(among[new][:, new].fill_diagonal_(-1.0)))
        m += len(picks)
        if m == k:
            # Rows after the last taken one were never candidates, even if a block contained them.
            last = int((order == taken[k - 1]).nonzero()[0, 0])
            by[order[last + 1 :]] = -1
            break
    return Suppressed(taken[:m], by, largest)


def critical_tau(
    x: Tensor | UnitRows, order: Tensor, k: int, low: float = -1.0, *, given: Tensor | None = None
) -> float:
    """The smallest threshold in (low, 1], by 20 halvings, at which the engine takes k rows. (n, d), (c,) -> float

    The number of rows that greedy takes is not strictly monotone in the threshold. So this is a critical threshold, not
    always the smallest of all. Cost: one n x n matrix of cosines, and 20 scans of at most k of its rows. Above
    `GRAM_LIMIT` rows: 20 suppressions.
    """
    unit = UnitRows.of(x)
    start = order.new_empty(0) if given is None else given
    rows = torch.cat([start, order])
    pairs = _Pairs(unit, rows) if rows.shape[0] <= GRAM_LIMIT else None
    high = 1.0
    for _ in range(HALVINGS):
        tau = (low + high) / 2
        if pairs is None:
            reached = suppress(unit, order, tau, k, given=given).order.shape[0] == k
        else:
            reached = pairs.reach(tau, start.shape[0], k)
        low, high = (low, tau) if reached else (tau, high)
    return high


class _Pairs:
    """All cosines of some rows, on the CPU. A scan reads only the cosines of the rows that it takes. (r,)"""

    def __init__(self, unit: UnitRows, rows: Tensor) -> None:
        self.x, self.rows = unit.x, rows
        # A scan has some ten operations per row taken, on a few hundred numbers: numpy's are the cheaper ones.
        self.cosines = gram(unit[rows]).cpu().numpy()

    def reach(self, tau: float, given: int, k: int) -> bool:
        """True if greedy takes k rows. The first `given` rows are always taken."""
        alive = torch.ones(self.rows.shape[0], dtype=torch.bool, device="cpu").numpy()
        alive[:given] = False
        for row in range(given):
            self._pass_over(alive, row, tau)
        for taken in range(given, k):
            if taken + int(alive.sum()) < k:
                return False
            row = int(alive.argmax())
            alive[row] = False
            self._pass_over(alive, row, tau)
        return True

    def _pass_over(self, alive: Any, row: int, tau: float) -> None:
        """Clear the rows whose cosine with this row is above tau. Float64 decides the doubtful ones. (r,) bool"""
        above = self.cosines[row] - tau
        doubtful = ((abs(above) < DOUBT) & alive).nonzero()[0]
        alive &= above <= 0
        if doubtful.size:
            columns = self.rows[torch.tensor(doubtful, device=self.rows.device)]
            exact = cosine64(self.x[self.rows[row : row + 1]], self.x[columns])[0] <= tau + SLACK
            alive[doubtful] = exact.cpu().numpy()


def share_of_best(worth: Tensor, own: Tensor, best: Tensor) -> float | None:
    """The total worth of the taken rows as a share of that of the `best` rows, an upper bound of the optimum.

    None if a worth in the bound or the total taken is negative. (n,), (m,), (k,) -> float
    """
    return share_of(float(worth[best].sum()), float(worth[best].min()), float(worth[own].sum()))


def share_of(total: float, least: float, taken: float) -> float | None:
    """What was taken as a share of the best rows' total; None if their least, or what was taken, is below 0."""
    return taken / total if total > 0 and taken >= 0 and least >= 0 else None


def _largest(cosines: Tensor) -> float:
    return float(cosines.max()) if cosines.numel() else -1.0


def _resolve(above: Tensor, room: int) -> tuple[list[int], list[int]]:
    """Greedy inside one block: take the first row alive, pass over too similar rows. (b, b) -> picks, blocker of each

    Rows of the matrix become Python integers, one bit per candidate. For a few hundred candidates this is far cheaper
    than one tensor operation per pick.
    """
    size = above.shape[0]
    conflicts = _bits(above)
    alive = (1 << size) - 1
    picks: list[int] = []
    blockers = [-1] * size
    while alive and len(picks) < room:
        i = (alive & -alive).bit_length() - 1
        picks.append(i)
        alive &= ~(1 << i)
        passed = alive & conflicts(i)
        alive &= ~passed
        while passed:
            j = (passed & -passed).bit_length() - 1
            blockers[j] = i
            passed &= passed - 1
    return picks, blockers


def _bits(rows: Tensor) -> Callable[[int], int]:
    """A function from a row number to that boolean row as one integer, bit j for column j. (b, c) bool -> function"""
    count, width = rows.shape
    padded = torch.zeros(count, -(-width // 8), 8, dtype=torch.uint8, device=rows.device)
    padded.view(count, -1)[:, :width] = rows
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=rows.device)
    packed = (padded * weights).sum(-1, dtype=torch.uint8).cpu()
    flat, step = packed.numpy().tobytes(), packed.shape[1]
    return lambda i: int.from_bytes(flat[i * step : (i + 1) * step], "little")
