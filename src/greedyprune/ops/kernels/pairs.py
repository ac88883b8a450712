"""Float64 cosines of the rows that an engine takes, for a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256
"""The number of rows that are compared with all others at once."""


class Pairs:
    """Cosines of a batch's rows. `units`: rows of length 1, or zero, in float64. (b, n, d)

    If n <= d the matrix of all pairs is no larger than the rows, and is computed at once. Else a row's cosines are
    computed when it is taken. So memory is O(b n d).
    """

    def __init__(self, units: Tensor) -> None:
        b, n, d = units.shape
        self.units, self.images = units, torch.arange(b, device=units.device)
        self.whole = torch.bmm(units, units.mT).clamp_(-1, 1) if n <= d else None

    def of(self, rows: Tensor) -> Tensor:
        """Cosines of one row of each image with all its rows. (b,) -> (b, n)"""
        if self.whole is not None:
            return self.whole[self.images, rows]
        return torch.bmm(self.units, self.units[self.images, rows][:, :, None])[:, :, 0].clamp_(-1, 1)

    def nearest_other(self) -> Tensor:
        """The largest cosine of every row with another one; -1 if there is no other. -> (b, n)"""
        found: list[Tensor] = []
        for start in range(0, self.units.shape[1], BLOCK):
            some = slice(start, start + BLOCK)
            if self.whole is not None:
                cosines = self.whole[:, some].clone()
            else:
                cosines = torch.bmm(self.units[:, some], self.units.mT).clamp_(-1, 1)
            cosines.diagonal(offset=start, dim1=1, dim2=2).fill_(-1.0)
            found.append(cosines.amax(2))
        return torch.cat(found, 1)
