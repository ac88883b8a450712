"""Channels: scaled so that every coordinate gets a mean square of 1 over an image's tokens, or the most varied alone.

In the decoders of large language models one or two coordinates hold most of a state's length (massive activations), so
cosines of plain states compare little else.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from greedyprune.ops.blocks import cached_blocks

Scaling = Literal["none", "channels"]
TINY = torch.finfo(torch.float64).tiny


def scaled(how: Scaling, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Visual and text rows, as they are or channel-scaled. (..., n, d), (..., m, d) -> the same shapes"""
    return by_channels(x, text) if how == "channels" else (x, text)


def by_channels(x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Divide every coordinate by its root mean square over the visual rows: x_ic / r_c and t_jc / r_c,

        r_c = sqrt(mean_i x_ic^2).

    (..., n, d), (..., m, d) -> the same shapes

    A coordinate that is 0 in all visual rows is 0 in the text, too. Text rows are float64; visual rows are float32, or
    float64 if they were. Cost O(n d).
    """
    root = _root_mean_squares(x)
    rows = torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    for some, block in zip(cached_blocks(x), cached_blocks(rows), strict=True):
        block.copy_(some / root.clamp_min(TINY))
    return rows, _divided(text.double(), root)


def most_varied(x: Tensor, channels: int) -> Tensor:
    """The channels with the largest variance over the rows, in units of the largest entry. (n, d) -> (n, c) float64

    All of them if there are no more than `channels`. Ties go to the first channel.
    """
    x = x.double()
    x = x / x.abs().max().clamp_min(TINY)
    return x[:, x.var(0, correction=0).sort(descending=True, stable=True).indices[:channels]]


def _root_mean_squares(x: Tensor) -> Tensor:
    """The root mean square of every coordinate in float64, as if no square overflowed. (..., n, d) -> (..., 1, d)"""
    square, largest = x.new_zeros(*x.shape[:-2], 1, x.shape[-1], dtype=torch.float64), None
    if x.dtype == torch.float64:  # squares of narrower types do not overflow in float64
        largest = x.abs().amax(-2, keepdim=True).clamp_min(TINY)
    for some in cached_blocks(x):
        square += (some.double() if largest is None else some / largest).square_().sum(-2, keepdim=True)
    root = (square / x.shape[-2]).sqrt()
    return root if largest is None else largest * root


def _divided(text: Tensor, root: Tensor) -> Tensor:
    """Text rows over the root mean squares, up to a factor of a row if it would overflow.

    (..., m, d), (..., 1, d) -> (..., m, d)
    """
    used, root = root > 0, root.clamp_min(TINY)
    words = torch.where(used, text, 0.0)
    short = words / words.abs().amax(-1, keepdim=True).clamp_min(TINY)
    words = words / root
    return torch.where(words.isfinite().all(-1, keepdim=True), words, short / root)
