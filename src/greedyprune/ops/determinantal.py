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
JOIN, POOL = 64, 512


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
        super().__init__(n, unit.x.device, JOIN, POOL)
        # Products of float64 rows as long as they may be would overflow, those of narrower types cannot.
        self.x = unit64(unit.x) if unit.x.dtype == torch.float64 else unit.x
        self.units, self.quality = unit.all(), quality.double().cpu()
        # A zero row's own cosine is 0: it has no length.
        self.diagonal = self.quality.square() * (torch.ones(n) if unit.plain else (self.units != 0).any(1).cpu())
        self.alive.logical_and_(self.diagonal > 0)
        self.spanned = torch.zeros(n, dtype=torch.float64)
        """(n,) how much of each unit row lies in the part of the basis that was looked at, in float32."""
        self.basis = torch.empty(min(k, d), d, dtype=torch.float64, device=self.x.device)
        self.size = self.looked = 0
        self.schur, self.steps = torch.empty(POOL, POOL).double(), torch.empty(POOL, POOL).double()
        self.wide, self.scale, self.spanned64 = (
            torch.empty(POOL, d).double(),
            torch.empty(POOL).double(),
            torch.empty(POOL, k).double(),
        )
        self.leave()

    def update(self) -> tuple[Tensor, Tensor]:
        """Keys of all rows by float32 products with the basis. -> (n,), (n,)"""
        self._extend()
        new = torch.arange(self.looked, self.size, device=self.x.device)
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
            units = unit64(self.x[some.to(self.x.device)])
            found.append((1 - (units @ self.basis[: self.size].T).square_().sum(1)).cpu())
        keys, diagonal = torch.cat(found) * self.diagonal[rows], self.diagonal[rows]
        gone = keys <= FLOOR * diagonal
        self.alive[rows[gone]] = False
        return keys.masked_fill_(gone, -torch.inf), diagonal * (SLACK / 2)

    def leave(self) -> None:
        """Empty the pool: the next one starts from what the basis spans by then."""
        super().leave()
        self.start, self.step = self.size, 0
        self.members = torch.empty(0, dtype=torch.int64)

    def enter(self, rows: Tensor, keys: Tensor) -> tuple[Tensor, float]:
        """Put rows to the pool's kernel, less what the basis spanned at its start. (r,), (r,) -> (p,)"""
        old, new = self.members.shape[0], self.members.shape[0] + rows.shape[0]
        self.members = torch.cat([self.members, rows])
        self.wide[old:new] = self.x[rows.to(self.x.device)]
        wide = self.wide[old:new]
        products = (wide @ self.wide[:new].T).cpu()
        self.scale[old:new] = self.quality[rows] / products[:, old:].diagonal().sqrt()
        self.spanned64[old:new, : self.start] = (
            (wide @ self.basis[: self.start].T).cpu().mul_(self.scale[old:new, None])
        )
        products.mul_(self.scale[:new]).mul_(self.scale[old:new, None])
        before = self.spanned64[:, : self.start]
        schur = products.addmm_(before[old:new], before[:new].T, alpha=-1)
        self.schur[old:new, :new] = schur
        self.schur[:old, old:new] = schur[:, :old].T
        steps = self.steps[: self.step]
        left = schur[:, old:].diagonal().clone()
        if self.step and rows.numel():
            places = self.places
            factor = steps[:, places].T.tril()
            later = torch.linalg.solve_triangular(factor, schur[:, places].T, upper=False)
            self.steps[: self.step, old:new] = later
            left -= later.square().sum(0)
        diagonal = self.diagonal[rows]
        self.floor = FLOOR * self.diagonal[self.members]
        gone = left <= FLOOR * diagonal
        self.alive[rows[gone]] = False
        keys = (
            torch.cat([self._keys[:old], left.masked_fill_(gone, -torch.inf)])
            if old
            else left.masked_fill_(gone, -torch.inf)
        )
        return keys, float(self.diagonal[self.members].max()) * SLACK / 2

    def follow(self, keys: Tensor, place: int) -> Tensor:
        """One step of a Cholesky factorisation, behind which the row taken has nothing left. (p,) -> (p,)"""
        size = keys.shape[0]
        before = self.steps[: self.step, :size]
        new = torch.addmv(self.schur[place, :size], before.T, before[:, place], alpha=-1).div_(keys[place].sqrt())
        self.steps[self.step, :size] = new
        if self.step == 0:
            self.places = []
        self.places.append(place)
        self.step += 1
        keys = keys.addcmul(new, new, value=-1)
        return keys.masked_fill_(keys <= self.floor, -torch.inf)

    def _extend(self) -> None:
        """Put the rows taken since the last time into the basis, but for given ones that lie in its span."""
        new = [row for row, gain in zip(self.taken, self.gains, strict=True) if gain > -torch.inf][self.size :]
        if not new:
            return
        rest, basis = unit64(self.x[torch.tensor(new, device=self.x.device)]), self.basis[: self.size]
        for _ in range(2):
            rest = rest - (rest @ basis.T) @ basis
            if float(rest.square().sum(1).min()) > 0.01:
                break  # else what rounding left of the basis in so short a rest would count: once more
        directions = torch.linalg.qr(rest.T)[0].T  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self.basis[self.size : self.size + len(new)] = directions
        self.size += len(new)
