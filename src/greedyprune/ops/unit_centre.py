"""Unit-centring: rows are scaled to length 1, then the mean of the visual ones is subtracted from all.

What all visual tokens share raises every cosine. A text row and the visual rows may have very different lengths, so
that a mean of rows as they are would hide a short text row. Rows of length 1 hide none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.blocks import cached_blocks
from greedyprune.ops.cosine import SLACK, cosine64, norms, unit64

CANCELS = 1e-2
"""The squared distance of a unit row from the mean below which its terms cancel: their rounding would reach `SLACK`."""
TINY = torch.finfo(torch.float64).tiny


def unit_centred(x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Visual and text rows, all scaled to length 1, then without the mean m of the visual ones.

    u_i - m and s_j - m, u_i = x_i / |x_i|, s_j = t_j / |t_j|, m = mean u_i. (n, d), (m, d) -> (n, d), (m, d)

    Zero rows, and rows at the mean, become zero. Results are float32, and float64 for float64 rows.
    """
    width = torch.promote_types(x.dtype, torch.float32)
    x, text = _safe(x), _safe(text)
    mean = _lengths_and_mean(x)[1]

    def centred(rows: Tensor) -> Tensor:
        return torch.cat([apart(unit64(some), mean).to(width) for some in cached_blocks(rows)])

    return centred(x), centred(text)


def centred_cosines(x: Tensor, words: Tensor) -> Tensor:
    """Cosines of visual rows with text rows, all scaled to length 1, then without the mean m of the visual ones.

    cos(u_i - m, s_j - m), u_i = x_i / |x_i|, s_j = t_j / |t_j|, m = mean u_i. (n, d), (m, d) -> (n, m) float64

    A zero row has no direction, and a row at the mean has none after centring: its cosines are 0. Cost O(n m d).
    """
    x = _safe(x)
    lengths, mean = _lengths_and_mean(x)
    text = unit64(apart(unit64(words), mean))
    columns, found = torch.cat([text, mean[None]]), list[Tensor]()
    for rows, length in zip(cached_blocks(x), cached_blocks(lengths[:, None], x.shape[1]), strict=True):
        # |u - m|^2 = 1 - 2 u.m + |m|^2 needs no copy of unit rows. Where it would cancel, m is subtracted first.
        parts = (columns @ rows.double().T).T / length.clamp_min(TINY)
        square = 1 - 2 * parts[:, -1:] + mean.square().sum()
        cosines = (parts[:, :-1] - text @ mean) / square.clamp_min(CANCELS).sqrt()
        slow = ((square < CANCELS) | (length == 0))[:, 0]
        if bool(slow.any()):
            cosines[slow] = unit64(apart(unit64(rows[slow]), mean)) @ text.T
        found.append(cosines.clamp_(-1, 1))
    return torch.cat(found)


def centred_cosines_at_once(units: Tensor, words: Tensor) -> Tensor:
    """`centred_cosines` of a batch, by plain float64 matrices. `units`: rows of length 1. -> (b, n, m)

    (b, n, d), (b, m, d)
    """
    mean = units.mean(1, keepdim=True)
    return cosine64(apart(units, mean), apart(unit64(words), mean))


def apart(units: Tensor, mean: Tensor) -> Tensor:
    """Unit rows without their mean; zero for zero rows, and for rows at the mean up to rounding.

    (..., n, d) -> (..., n, d)
    """
    rows = units - mean
    none = (rows.square().sum(-1, keepdim=True) <= SLACK**2) | ~units.any(-1, keepdim=True)
    return rows.masked_fill_(none, 0.0)


def _safe(rows: Tensor) -> Tensor:
    """Rows whose squares do not overflow: long float64 rows are scaled, narrower types never overflow."""
    return unit64(rows) if rows.dtype == torch.float64 else rows


def _lengths_and_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    """The length of every row, and the mean of the rows scaled to length 1, in float64. (n, d) -> (n,), (d,)"""
    lengths, total = list[Tensor](), x.new_zeros(x.shape[1], dtype=torch.float64)
    for block in cached_blocks(x):
        rows = block.double()
        lengths.append(norms(rows))
        total += lengths[-1].clamp_min(TINY).reciprocal() @ rows
    return torch.cat(lengths), total / x.shape[0]
