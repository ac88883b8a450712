"""Greedy mode of a determinantal point process: rows of high quality that span as much volume as they can.

The kernel is L = diag(q) G diag(q), G the cosines of the rows. What a row adds to log det L_S is the logarithm of its
residual r_i = L_ii - L_iS L_SS^-1 L_Si, its squared length behind what the taken rows span, which falls as rows are
taken. The span is kept as an orthonormal basis in float64, so the float32 residual of a row, q_i^2 (1 - sum of its
squared products with the basis), is off by a known amount however ill-conditioned L_S is; a pool of rows (see
`falling.py`) is then followed by Cholesky steps in float64, and every decision is one of float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks
from greedyprune.ops.cosine import DOUBT, SLACK, UnitRows, product, unit64
from greedyprune.ops.falling import Falling
from greedyprune.ops.picks import Picks, numbers

FLOOR = 1e-10
"""A row with a residual below this share of its L_ii lies in the span of those taken, up to rounding."""
JOINING, MOST = 64, 512
"""How many rows join the pool after every update, and how many it holds before it starts anew."""


def determinantal(x: Tensor | UnitRows, quality: Tensor, k: int, *, given: Tensor | None = None) -> Picks:
    """Up to k rows, each the one with the largest residual of L = diag(q) G diag(q), q >= 0. (n, d), (n,) -> Picks

    `given` rows are taken beforehand, in their order. Residuals that differ by less than `SLACK` L_ii tie, and ties go
    to the lowest row. Rows of quality 0, zero rows, and rows whose residual is below `FLOOR` L_ii are never taken, so
    there are fewer than k where all others lie in the span of those. Gains are residuals: factors of det L_S.
    Cost O(k n d) and memory O(n d), never an n x n matrix.
    """
    unit = UnitRows.of(x)
    residual = _Residual(unit, quality, k)
    for row in numbers(given):
        residual.give(row)
    residual.run(k)
    return Picks.of(residual.taken, [max(gain, 0.0) for gain in residual.gains], unit.x.device)


class _Residual(Falling):
    """Keys that are squared distances from the span of the rows taken, times squared quality."""

    def __init__(self, unit: UnitRows, quality: Tensor, k: int) -> None:
        n, d = unit.x.shape
        super().__init__(n, unit.x.device, JOINING, MOST)
        # Products of float64 rows as long as they may be would overflow, those of narrower types cannot.
        self.x = unit64(unit.x) if unit.x.dtype == torch.float64 else unit.x
        self.units, self.quality = unit.all(), quality.double().cpu()
        # A zero row's own cosine is 0: it has no length.
        self.diagonal = self.quality.square()
        if not unit.plain:
            self.diagonal.mul_((self.units != 0).any(1).cpu())
        self.alive.logical_and_(self.diagonal > 0)
        self.spanned = torch.zeros(n, dtype=torch.float64, device="cpu")
        """(n,) how much of each unit row lies in the part of the basis that was looked at, in float32."""
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
        # Each product is DOUBT / 2 off at most, the sum of m squares whose root is 1 at most by sqrt(m) DOUBT.
        return self.diagonal * (1 - self.spanned), self.diagonal * (self.size**0.5 * DOUBT + SLACK)

    def settle(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of some rows in float64; who is in the span is out for good. (r,) -> (r,), (r,)"""
        self._extend()
        found: list[Tensor] = []
        for some in in_blocks(rows, self.x.shape[1]):
            units = unit64(self.x[some.to(self.device)])
            found.append((1 - (units @ self.basis[: self.size].T).square_().sum(1)).cpu())
        diagonal = self.diagonal[rows]
        return self._floored(torch.cat(found) * diagonal, rows), diagonal * (SLACK / 2)

    def leave(self) -> None:
        """The next pool starts from what the basis spans by now."""
        self.pool = _Kernel(self.basis[: self.size])
        self.members = torch.empty(0, dtype=torch.int64, device="cpu")

    def enter(self, rows: Tensor, keys: Tensor) -> tuple[Tensor, float]:
        """Exact keys of the rows that join. (r,), (r,) -> (r,)"""
        left = self.pool.join(self.x[rows.to(self.device)], self.quality[rows])
        self.members = torch.cat([self.members, rows])
        diagonal = self.diagonal[self.members]
        self.floor = FLOOR * diagonal
        return self._floored(left, rows), float(diagonal.max()) * SLACK / 2

    def follow(self, keys: Tensor, place: int) -> Tensor:
        """One step of a Cholesky factorisation, behind which the row taken has nothing left. (p,) -> (p,)"""
        new = self.pool.step(place, float(keys[place]))
        keys = keys.addcmul(new, new, value=-1)
        return keys.masked_fill_(keys <= self.floor, -torch.inf)

    def _floored(self, keys: Tensor, rows: Tensor) -> Tensor:
        gone = keys <= FLOOR * self.diagonal[rows]
        self.alive[rows[gone]] = False
        return keys.masked_fill(gone, -torch.inf)

    def _extend(self) -> None:
        """Put the rows taken since the last time into the basis, but for given ones that lie in its span."""
        new = [row for row, gain in zip(self.taken, self.gains, strict=True) if gain > -torch.inf][self.size :]
        if not new:
            return
        rest, basis = unit64(self.x[torch.tensor(new, device=self.device)]), self.basis[: self.size]
        for _ in range(2):
            rest = rest - (rest @ basis.T) @ basis
            if float(rest.square().sum(1).min()) > 0.01:
                break  # else what rounding left of the basis in so short a rest would count: once more
        directions = torch.linalg.qr(rest.T)[0].T  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self.basis[self.size : self.size + len(new)] = directions
        self.size += len(new)


class _Kernel:
    """The kernel of the rows in a pool, less what a basis spans of it, and Cholesky steps on it; in float64."""

    def __init__(self, basis: Tensor) -> None:
        self.basis, self.size, self.places = basis, 0, list[int]()
        self.rows = basis.new_empty(MOST, basis.shape[1])
        self.spanned, self.scale = _wide(MOST, basis.shape[0]), _wide(MOST)
        self.left, self.steps = _wide(MOST, MOST), _wide(MOST, MOST)

    def join(self, rows: Tensor, quality: Tensor) -> Tensor:
        """What is left of some rows behind the basis and the steps made. (r, d), (r,) -> (r,)"""
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
        """The pool's products with what is new in the row at `place`, of which so much is left. -> (p,)"""
        made, before = len(self.places), self.steps[: len(self.places), : self.size]
        new = torch.addmv(self.left[place, : self.size], before.T, before[:, place], alpha=-1).div_(residual**0.5)
        self.steps[made, : self.size] = new
        self.places.append(place)
        return new


def _wide(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.float64, device="cpu")
