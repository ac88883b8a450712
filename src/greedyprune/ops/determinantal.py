"""Greedy mode of a determinantal point process: rows of high quality that span the largest volume.

The kernel is L = diag(q) G diag(q), G the cosines of the rows. A row adds the logarithm of its residual to log det L_S.
The residual is r_i = L_ii - L_iS L_SS^-1 L_Si, the squared length outside the span of the taken rows. It falls as rows
are taken.

The span is kept as an orthonormal basis in float64. A float32 residual is q_i^2 (1 - sum of squared products with the
basis), so its error is known even if L_S is ill-conditioned. A pool of rows (see `falling.py`) is then followed by
Cholesky steps in float64. Every decision is one of float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks
from greedyprune.ops.cosine import DOUBT, SLACK, UnitRows, product, unit64
from greedyprune.ops.falling import Falling
from greedyprune.ops.picks import Picks, numbers

FLOOR = 1e-10
"""A row with a residual below this share of its L_ii lies in the span of the taken rows, up to rounding."""
JOINING, MOST = 64, 512
"""The number of rows that join the pool after every update, and the size at which a new pool starts."""


def determinantal(x: Tensor | UnitRows, quality: Tensor, k: int, *, given: Tensor | None = None) -> Picks:
    """Take up to k rows, each with the largest residual of L = diag(q) G diag(q), q >= 0. (n, d), (n,) -> Picks

    `given` rows are taken first, in their order. Residuals that differ by less than `SLACK` L_ii tie, and ties go to
    the lowest row. Rows of quality 0, zero rows, and rows whose residual is below `FLOOR` L_ii are never taken. So
    fewer than k are taken if all others lie in the span of the taken ones. Gains are residuals: factors of det L_S.
    Cost O(k n d) and memory O(n d), never an n x n matrix.
    """
    unit = UnitRows.of(x)
    residual = _Residual(unit, quality, k)
    for row in numbers(given):
        residual.give(row)
    residual.run(k)
    return Picks.of(residual.taken, [max(gain, 0.0) for gain in residual.gains], unit.x.device)


class _Residual(Falling):
    """Keys are squared distances from the span of the taken rows, times squared quality."""

    def __init__(self, unit: UnitRows, quality: Tensor, k: int) -> None:
        n, d = unit.x.shape
        super().__init__(n, unit.x.device, JOINING, MOST)
        # Products of long float64 rows could overflow; those of narrower types cannot.
        self.x = unit64(unit.x) if unit.x.dtype == torch.float64 else unit.x
        self.units, self.quality = unit.all(), quality.double().cpu()
        # The cosine of a zero row with itself is 0.
        self.diagonal = self.quality.square()
        if not unit.plain:
            self.diagonal.mul_((self.units != 0).any(1).cpu())
        self.alive.logical_and_(self.diagonal > 0)
        self.spanned = torch.zeros(n, dtype=torch.float64, device="cpu")
        """(n,) the squared length of each unit row in the part of the basis used so far, in float32."""
        self.basis = torch.empty(min(k, d), d, dtype=torch.float64, device=self.device)
        self.size = self.looked = 0
        self.leave()

    def update(self) -> tuple[Tensor, Tensor]:
        """Keys of all rows by float32 products with the basis. -> (n,), (n,)"""
        self._extend()
        new = torch.arange(self.looked, self.size, device=self.device)
        for some in in_blocks(new, self.units.shape[0]) if new.numel() else ():
            self.spanned += product(self.basis[some].float(), self.units).square_().sum(0).cpu()
        self.looked = self.size
        # The error of each product is at most DOUBT / 2. The sum of m squares is at most 1, its error sqrt(m) DOUBT.
        return self.diagonal * (1 - self.spanned), self.diagonal * (self.size**0.5 * DOUBT + SLACK)

    def settle(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of some rows in float64. A row in the span is never taken. (r,) -> (r,), (r,)"""
        self._extend()
        found: list[Tensor] = []
        for some in in_blocks(rows, self.x.shape[1]):
            units = unit64(self.x[some.to(self.device)])
            found.append((1 - (units @ self.basis[: self.size].T).square_().sum(1)).cpu())
        diagonal = self.diagonal[rows]
        return self._floored(torch.cat(found) * diagonal, rows), diagonal * (SLACK / 2)

    def leave(self) -> None:
        """Start the next pool from the current basis."""
        self.pool = _Kernel(self.basis[: self.size])
        self.members = torch.empty(0, dtype=torch.int64, device="cpu")

    def enter(self, rows: Tensor, keys: Tensor) -> Tensor:
        """The exact keys of the rows that join. (r,), (r,) -> (r,)"""
        left = self.pool.join(self.x[rows.to(self.device)], self.quality[rows])
        self.members = torch.cat([self.members, rows])
        diagonal = self.diagonal[self.members]
        self.floor, self.error = FLOOR * diagonal, diagonal.max() * (SLACK / 2)
        return self._floored(left, rows)

    def doubts(self, keys: Tensor) -> Tensor:
        """One error bound for all of the pool. (p,) -> ()"""
        return self.error

    def follow(self, keys: Tensor, place: int) -> Tensor:
        """One step of a Cholesky factorisation. After it the taken row has no residual left. (p,) -> (p,)"""
        new = self.pool.step(place, float(keys[place]))
        keys = keys.addcmul(new, new, value=-1)
        return keys.masked_fill_(keys <= self.floor, -torch.inf)

    def _floored(self, keys: Tensor, rows: Tensor) -> Tensor:
        gone = keys <= FLOOR * self.diagonal[rows]
        self.alive[rows[gone]] = False
        return keys.masked_fill(gone, -torch.inf)

    def _extend(self) -> None:
        """Extend the basis by the rows taken since the last call, except given ones that lie in its span."""
        new = [row for row, gain in zip(self.taken, self.gains, strict=True) if gain > -torch.inf][self.size :]
        if not new:
            return
        rest, basis = unit64(self.x[torch.tensor(new, device=self.device)]), self.basis[: self.size]
        for _ in range(2):
            rest = rest - (rest @ basis.T) @ basis
            if float(rest.square().sum(1).min()) > 0.01:
                break  # a shorter rest may still hold rounding errors along the basis: project once more
        directions = torch.linalg.qr(rest.T)[0].T  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self.basis[self.size : self.size + len(new)] = directions
        self.size += len(new)


class _Kernel:
    """The kernel of a pool's rows without the part that a basis spans, and Cholesky steps on it, in float64."""

    def __init__(self, basis: Tensor) -> None:
        self.basis, self.size, self.places = basis, 0, list[int]()
        self.rows = basis.new_empty(MOST, basis.shape[1])
        self.spanned, self.scale = _wide(MOST, basis.shape[0]), _wide(MOST)
        self.left, self.steps = _wide(MOST, MOST), _wide(MOST, MOST)

    def join(self, rows: Tensor, quality: Tensor) -> Tensor:
        """Add rows to the pool. Returns their residuals after the basis and the steps so far. (r, d), (r,) -> (r,)"""
        old, self.size = self.size, self.size + rows.shape[0]
        here, all_here = slice(old, self.size), slice(self.size)
        self.rows[here] = rows
        rows = self.rows[here]
        left = (rows @ self.rows[all_here].T).cpu()
        self.scale[here] = quality / left[:, old:].diagonal().sqrt()
        self.spanned[here] = (rows @ self.basis.T).cpu().mul_(self.scale[here, None])
        left.mul_(self.scale[all_here]).mul_(self.scale[here, None])
        left.addmm_(self.spanned[here], self.spanned[all_here].T, alpha=-1)
        self.left[here, all_here], self.left[all_here, here] = left, left.T
        made = len(self.places)
        factor = self.steps[:made, self.places].T.tril()
        solved = torch.linalg.solve_triangular  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self.steps[:made, here] = solved(factor, left[:, self.places].T, upper=False)
        return left[:, old:].diagonal() - self.steps[:made, here].square().sum(0)

    def step(self, place: int, residual: float) -> Tensor:
        """Make one Cholesky step for the row at `place` with this residual: its new column for the pool. -> (p,)"""
        made, before = len(self.places), self.steps[: len(self.places), : self.size]
        new = torch.addmv(self.left[place, : self.size], before.T, before[:, place], alpha=-1).div_(residual**0.5)
        self.steps[made, : self.size] = new
        self.places.append(place)
        return new


def _wide(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.float64, device="cpu")
