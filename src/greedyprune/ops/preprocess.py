"""What may be done to rows before their cosines are taken.

Results are float32 (float64 for float64 rows), element by element, so they are the same on every device and thread
count; later decisions are about these values.
"""

from __future__ import annotations

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Half-precision rows as float32; others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rmsnorm(x: Tensor, weight: Tensor) -> Tensor:
    """RMS normalisation up to the length of each row, which no cosine sees: x * weight. (n, d), (d,) -> (n, d)"""
    return widen(x) * weight.to(widen(x).dtype)


def mean_row(x: Tensor) -> Tensor:
    """The mean of all rows, summed in float64. (n, d) -> (d,)"""
    return x.double().mean(0).to(widen(x).dtype)
