"""Rows ranked by worth minus redundancy: worth - scale x largest cosine with the taken rows.

Cosines are float32, with an error of up to `DOUBT` / 2. Float64 decides between rows that are closer (see `cosine.py`).
A row's float64 result is stored and only updated later, so duplicates cost no more than other rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks
from greedyprune.ops.cosine import DOUBT, SLACK, UnitRows, cosine64, gram, product
from greedyprune.ops.falling import Falling
from greedyprune.ops.picks import numbers

LEAST, MOST = 96, 256
"""The limits of the pool size. Within them, a pool holds about a dozen of the rows that will be taken."""
WHOLE = 1024
"""Up to this number of rows one pool holds all of them, if a quarter or more will be taken."""


def pool_size(n: int, k: int) -> int:
    """The number of rows in a pool if k of n rows will be taken."""
    return min(max(12 * n // k, LEAST), MOST)


class Nearest(Falling):
    """Keys are worth - scale x the largest cosine with the taken rows; (n,) worth in float64, 0 by default.

    Before any row is taken the cosine counts as 0, and a key may rise from there. So the first row must be given.
    """

    def __init__(self, unit: UnitRows, k: int, worth: Tensor | None = None, scale: float = 1.0) -> None:
        n = unit.x.shape[0]
        whole = n <= min(4 * k, WHOLE)
        super().__init__(n, unit.x.device, *[n if whole else pool_size(n, k)] * 2)
        self.x, self.units, self.scale = unit.x, unit.all(), scale
        self.cosines = gram(self.units) if whole else None
        """(n, n) all cosines in float32; None if a pool does not hold all rows."""
        self.worth = torch.zeros(n, dtype=torch.float64, device="cpu") if worth is None else worth.double().cpu()
        self.largest = torch.full((n,), -1.0, device="cpu")
        self.updated = 0
        # The float64 result, and the number of taken rows it covers: each pair of rows is computed at most once.
        self.exact = torch.full((n,), -torch.inf, dtype=torch.float64, device="cpu")
        self.seen = torch.zeros(n, dtype=torch.int64, device="cpu")
        self.doubt = self.bounds = self.worth[:0]
        """The error bounds of the pool's keys, (p,) or (); for each member of the pool, the bounds that it would put on
        the pool's keys if it were taken, (p, p)."""

    def keys(self, worth: Tensor, cosines: Tensor) -> Tensor:
        """Keys by worth and largest cosine in float32. (r,), (..., r) -> (..., r)"""
        return worth - self.scale * cosines

    def errors(self, worth: Tensor) -> Tensor:
        """Error bounds of the keys of rows of this worth, whatever their cosines. (r,) -> (r,) or ()"""
        return torch.tensor((self.scale * DOUBT + SLACK) / 2, dtype=torch.float64, device="cpu")

    def exact_keys(self, worth: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """Keys by worth and largest cosine in float64, and error bounds. (r,), (r,) -> (r,), (r,) or ()"""
        return worth - self.scale * cosines, torch.tensor(SLACK / 2, dtype=torch.float64, device="cpu")

    def update(self) -> tuple[Tensor, Tensor]:
        """Keys of all rows by float32 cosines. -> (n,), (n,) or ()"""
        new = torch.tensor(self.taken[self.updated :], device=self.units.device)
        for some in in_blocks(new, self.units.shape[0]):
            torch.maximum(self.largest, self._cosines(some).amax(0).cpu(), out=self.largest)
        self.updated = len(self.taken)
        keys = self.keys(self.worth, self.largest)
        return keys, self.errors(self.worth)

    def settle(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of some rows by float64 cosines. (r,) -> (r,), (r,) or ()"""
        if not self.taken:
            return self.worth[rows], torch.zeros((), dtype=torch.float64, device="cpu")
        taken = torch.tensor(self.taken, device=self.x.device)
        # Rows with results of the same age are updated together, against the rows taken since.
        for since in sorted(set(numbers(self.seen[rows])) - {len(self.taken)}):
            behind, new = rows[self.seen[rows] == since], taken[since:]
            for some in in_blocks(behind, max(new.shape[0], self.x.shape[1])):
                self.exact[some] = torch.maximum(self.exact[some], self._largest64(some.to(self.x.device), new).cpu())
        self.seen[rows] = len(self.taken)
        return self.exact_keys(self.worth[rows], self.exact[rows])

    def _cosines(self, rows: Tensor, others: Tensor | None = None) -> Tensor:
        """The float32 cosines of some rows with others, or with all. (r,), (s,) -> (r, s)"""
        if self.cosines is not None:
            return self.cosines[rows] if others is None else self.cosines[rows[:, None], others]
        return product(self.units[rows], self.units if others is None else self.units[others])

    def _largest64(self, rows: Tensor, others: Tensor) -> Tensor:
        """The largest float64 cosine of some rows with others. Float32 finds where it may be. (r,), (s,) -> (r,)"""
        cosines = self._cosines(rows, others)
        near = others[(cosines >= cosines.amax(1, keepdim=True) - DOUBT).any(0)]
        return cosine64(self.x[rows], self.x[near]).amax(1)

    def leave(self) -> None:
        """Do nothing: every update starts a new pool."""

    def join(self, highest: Tensor) -> tuple[Tensor, float]:
        """The rows that join the pool, and the highest key that a row left outside may have. (n,) -> (r,), key"""
        if self.cosines is None:
            return super().join(highest)
        return torch.arange(highest.shape[0], device="cpu"), -torch.inf  # so that `bounds` are those of `cosines`

    def enter(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Store the members' bounds, and the errors of their keys. (p,), (p,) -> (p,)"""
        here = rows.to(self.units.device)
        among = gram(self.units[here]) if self.cosines is None else self.cosines
        self.bounds = self.keys(self.worth[rows], among.cpu()).fill_diagonal_(-torch.inf)
        self.doubt = self.errors(self.worth[rows])
        return keys

    def doubts(self, keys: Tensor) -> Tensor:
        """The error bounds of the pool's keys. (p,) -> (p,) or ()"""
        return self.doubt

    def follow(self, keys: Tensor, place: int) -> Tensor:
        """Lower the keys to the bounds of the taken row. (p,) -> (p,)"""
        return torch.minimum(keys, self.bounds[place])
