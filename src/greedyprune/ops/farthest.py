"""Farthest-first traversal: take the row that is farthest from all taken so far, over and over (greedy max-min).

The distance of two rows is 1 - cosine, so a row's distance from a set is 1 - its largest cosine with it. These maxima
run along in float32; rows that lie within `DOUBT` of the farthest one are settled in float64 (see `cosine.py`), and
what was computed for them once is only brought up to date later, so duplicates cost no more than other rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from greedyprune.ops.cosine import DOUBT, SLACK, UnitRows, cosine64, product

GRAM_LIMIT = 8192
"""Above this many rows cosines are computed row by row, without the n x n matrix of a quarter gigabyte."""
BLOCK = 1024
"""How many rows of a matrix of cosines exist at once where the whole does not."""


@dataclass(frozen=True, eq=False)
class Traversal:
    """What the engine found."""

    order: Tensor
    """(k,) the rows in the order taken; given rows first."""
    gains: Tensor
    """(k,) the distance of each from the nearest row taken before it, of the first from its nearest other row."""


def farthest_first(x: Tensor | UnitRows, k: int, *, given: Tensor | None = None) -> Traversal:
    """k rows, 0 < k <= n: first the one whose nearest other row is farthest, then always the farthest. (n, d) -> ...

    `given` rows are taken beforehand, in their order. Ties (within `SLACK` in float64) go to the lowest row. A zero row
    has cosine 0 with every row, and a row alone is at distance 2, which no two rows exceed.
    Cost O(n^2 d) once and O(n) per row taken, memory O(n^2), up to `GRAM_LIMIT` rows; above, or where fewer than n / 16
    rows are taken after given ones, O(n d) per row taken and memory O(n + BLOCK n).
    """
    unit = UnitRows.of(x)
    n = unit.x.shape[0]
    few = given is not None and given.numel() > 0 and 16 * k < n
    row_of = _by_row(unit) if few or n > GRAM_LIMIT else _by_matrix(unit)
    nearest = _Nearest(unit.x)
    if given is not None and given.numel():
        starts = cast("list[int]", given.tolist())  # pyright: ignore[reportUnknownMemberType]
        first = float(_nearest_other(unit, given[:1])[0])
    else:
        found, first = _most_isolated(unit)
        starts = [found]
    gains = [1 - first]
    nearest.add(starts[0], row_of(starts[0]))
    for row in starts[1:]:
        gains.append(1 - nearest.settled(row))
        nearest.add(row, row_of(row))
    while len(nearest.taken) < k:
        row, value = nearest.lowest()
        gains.append(1 - value)
        nearest.add(row, row_of(row))
    device = unit.x.device
    return Traversal(torch.tensor(nearest.taken, device=device), torch.tensor(gains, device=device))


class _Nearest:
    """Every row's largest cosine with the rows taken so far. On the CPU, so that a pick costs no wait for a device."""

    def __init__(self, x: Tensor) -> None:
        n = x.shape[0]
        self.x = x
        self.taken: list[int] = []
        self.largest = torch.full((n,), -torch.inf)
        # What float64 says, and of how many of the rows taken: so a row is settled once per row taken, at most.
        self.exact = torch.full((n,), -torch.inf, dtype=torch.float64)
        self.seen = torch.zeros(n, dtype=torch.int64)
        self.free = torch.ones(n, dtype=torch.bool)

    def add(self, row: int, cosines: Tensor) -> None:
        """Take a row, given its cosines with every row. (n,)"""
        self.taken.append(row)
        self.free[row] = False
        torch.maximum(self.largest, cosines, out=self.largest)

    def lowest(self) -> tuple[int, float]:
        """The free row whose largest cosine is lowest, the first of those that tie, and that cosine."""
        values = self.largest.masked_fill(~self.free, torch.inf)
        best = values.min()
        doubtful = (values <= best + DOUBT).nonzero()[:, 0]
        if doubtful.shape[0] == 1:
            return int(doubtful[0]), float(best)
        exact = self._settle(doubtful)
        place = int((exact <= exact.min() + SLACK).to(torch.uint8).argmax())
        return int(doubtful[place]), float(exact[place])

    def settled(self, row: int) -> float:
        """The largest cosine of one row in float64."""
        return float(self._settle(torch.tensor([row]))[0])

    def _settle(self, rows: Tensor) -> Tensor:
        """The largest cosines of some rows in float64. (r,) -> (r,)"""
        device, taken = self.x.device, torch.tensor(self.taken)
        # Rows that were settled equally long ago are brought up to date together, against what was taken since.
        counts = cast("list[int]", self.seen[rows].tolist())  # pyright: ignore[reportUnknownMemberType]
        for since in sorted(set(counts)):
            behind = rows[self.seen[rows] == since]
            if since == len(self.taken):
                continue
            new = self.x[taken[since:].to(device)]
            for some in _blocks(behind):
                now = cosine64(self.x[some.to(device)], new).amax(1).cpu()
                self.exact[some] = torch.maximum(self.exact[some], now)
        self.seen[rows] = len(self.taken)
        return self.exact[rows]


def _by_matrix(unit: UnitRows) -> Callable[[int], Tensor]:
    rows = unit.all()
    cosines = product(rows, rows).cpu()
    return lambda i: cosines[i]


def _by_row(unit: UnitRows) -> Callable[[int], Tensor]:
    return lambda i: unit.dot(unit.x[i]).cpu()


def _most_isolated(unit: UnitRows) -> tuple[int, float]:
    """The row whose largest cosine with another row is lowest, and that cosine. (n, d) -> row, cosine"""
    n = unit.x.shape[0]
    rows = unit.all()
    values = torch.empty(n, device=unit.x.device)
    for some in _blocks(torch.arange(n, device=unit.x.device)):
        values[some] = product(rows[some], rows).scatter_(1, some[:, None], -1.0).amax(1)
    doubtful = (values <= values.min() + DOUBT).nonzero()[:, 0]
    if doubtful.shape[0] == 1:
        return int(doubtful[0]), float(values[doubtful[0]])
    exact = torch.cat([_nearest_other(unit, some) for some in _blocks(doubtful)])
    place = int((exact <= exact.min() + SLACK).to(torch.uint8).argmax())
    return int(doubtful[place]), float(exact[place])


def _nearest_other(unit: UnitRows, rows: Tensor) -> Tensor:
    """The largest cosine of some rows with another row, in float64; -1 where there is no other. (r,) -> (r,)"""
    return cosine64(unit.x[rows], unit.x).scatter_(1, rows[:, None], -1.0).amax(1)


def _blocks(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + BLOCK] for start in range(0, rows.shape[0], BLOCK)]
