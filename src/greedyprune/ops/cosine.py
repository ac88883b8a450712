"""Cosines for decisions: float32 for speed, float64 if float32 could decide wrongly.

The exact cosine of two rows is defined in float64: both rows are scaled to length 1, multiplied, and the product is
clamped to [-1, 1]. It is 0 if a row is zero. A float32 cosine is within `DOUBT` / 2 of it, so only values that close to
a decision are recomputed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks

DOUBT = 1e-5
"""If a float32 cosine is this close to a decision, float64 decides. The float32 error is below 1e-6."""
NEAR_TIE = 4e-6
"""The order of two float32 saliencies is certain if they are at least this far apart."""
SLACK = 1e-12
"""Float64 cosines this close to each other or to a threshold count as equal. This absorbs the rounding of float64."""

STRIP = 192
"""The number of rows of a symmetric matrix that are computed at a time."""


class UnitRows:
    """Rows scaled to length 1 on demand. Rows that no decision needs are never read. (n, d)

    Zero rows stay zero, so that every cosine with them is 0.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        # Outside this range squares overflow or underflow in float32. Such rows, and zero rows, take the slow path.
        norm = norms(x)
        self.plain = bool(((norm > 1e-15) & (norm < 1e15)).all()) and x.dtype != torch.float64
        self.inverse = norm.reciprocal() if self.plain else None

    @classmethod
    def of(cls, x: Tensor | UnitRows) -> UnitRows:
        """Wrap rows, or return wrapped ones as they are. So several engines share the norms of an image."""
        return x if isinstance(x, UnitRows) else cls(x)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Unit rows in float32. (r,) -> (r, d)"""
        picked = self.x[rows]
        if self.inverse is None:
            return unit64(picked).float()
        return picked.float().mul_(self.inverse[rows, None])

    def all(self) -> Tensor:
        """All unit rows in float32. -> (n, d)"""
        if self.inverse is None:
            return unit64(self.x).float()
        return self.x.float() * self.inverse[:, None]

    def dot(self, y: Tensor) -> Tensor:
        """Cosine of every row with one vector, in float32. (d,) -> (n,)"""
        unit = unit64(y[None]).float()[0]
        if self.inverse is None:
            return self.all() @ unit
        return (self.x.float() @ unit).mul_(self.inverse) if ieee() else (self.all().double() @ unit.double()).float()


def norms(x: Tensor) -> Tensor:
    """Length of every row, in float32 or better. (n, d) -> (n,)"""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=-1, dtype=wide)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def unit64(x: Tensor) -> Tensor:
    """Rows scaled to length 1 in float64; zero rows stay zero. (..., n, d) -> (..., n, d)"""
    tiny = torch.finfo(torch.float64).tiny
    if x.dtype == torch.float64:  # squares of narrower types never overflow, those of float64 may
        x = x / x.abs().amax(-1, keepdim=True).clamp_min(tiny)
    x = x.double()
    return x / x.square().sum(-1, keepdim=True).sqrt().clamp_min(tiny)


def cosine64(x: Tensor, y: Tensor) -> Tensor:
    """Exact cosine of every row of x with every row of y. (..., r, d), (..., s, d) -> (..., r, s)"""
    units = unit64(x)
    return (units @ (units if y is x else unit64(y)).mT).clamp_(-1, 1)


def pairs64(x: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Exact cosine of each x[rows] with the x[others] at the same place. (n, d), (r,), (r,) -> (r,)"""
    units = unit64(x)
    places = in_blocks(torch.arange(rows.shape[0], device=x.device), x.shape[1])
    found = [(units[rows[some]] * units[others[some]]).sum(1) for some in places]
    return torch.cat(found).clamp_(-1, 1)


def ieee() -> bool:
    """True if float32 products use float32 arithmetic, not TF32 or bfloat16, which a user may have allowed."""
    backends: list[Any] = [getattr(torch.backends, name).matmul for name in ("cuda", "mkldnn")]
    modes = {getattr(backend, "fp32_precision", "ieee") for backend in backends}
    return modes <= {"ieee", "none"} and torch.get_float32_matmul_precision() == "highest"


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of float32 rows, accurate to float32. (r, d), (s, d) -> (r, s)"""
    return a @ b.T if ieee() else (a.double() @ b.double().T).float()


def gram(units: Tensor) -> Tensor:
    """The products of all pairs of float32 rows, accurate to float32. Each is computed once. (n, d) -> (n, n)"""
    n = units.shape[0]
    found = units.new_empty(n, n)
    for start in range(0, n, STRIP):
        end = min(start + STRIP, n)
        found[start:end, start:] = strip = product(units[start:end], units[start:])
        found[end:, start:end] = strip[:, end - start :].T
    return found


def exceeds(cosines: Tensor, tau: float, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """True for the cosines of x[rows] with x[columns] above tau. Float64 decides the doubtful float32 ones.

    (r, s), (n, d), (r,), (s,) -> (r, s) bool
    """
    above = cosines > tau
    doubtful = (cosines - tau).abs() < DOUBT
    if bool(doubtful.any()):
        i, j = doubtful.any(1).nonzero()[:, 0], doubtful.any(0).nonzero()[:, 0]
        exact = cosine64(x[rows[i]], x[columns[j]]) > tau + SLACK
        above[i[:, None], j] = torch.where(doubtful[i[:, None], j], exact, above[i[:, None], j])
    return above


def saliency(x: Tensor | UnitRows, y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of every row with any text row, and the rows from the highest down, ties to the lowest index.

    The order is that of the float64 values. Values less than `SLACK` apart are ties, and a chain of them is one tie.
    A row is recomputed only if its float32 value nearly ties with a neighbour's. (n, d), (m, d) -> 2 x (n,)
    """
    unit = UnitRows.of(x)
    x = unit.x
    values = unit.dot(y[0]) if y.shape[0] == 1 else product(unit.all(), UnitRows(y).all()).amax(1)
    values = values.double()
    ranked, index = values.sort(descending=True)
    near = (ranked[:-1] - ranked[1:]) < NEAR_TIE
    in_doubt = torch.zeros_like(ranked, dtype=torch.bool)
    in_doubt[1:] |= near
    in_doubt[:-1] |= near
    rows = index[in_doubt]
    values[rows] = cosine64(x[rows], y).amax(1)
    ranked, index = values.sort(descending=True)
    tie = torch.zeros_like(index)
    tie[1:] = ((ranked[:-1] - ranked[1:]) > SLACK).cumsum(0)
    return values, index[(tie * x.shape[0] + index).argsort()]
