"""Differences between the frames of a clip: cells that change, and unusual tokens. Frames are processed one by one.

A clip's rows are those of a grid (t, h, w) in raster order, so frame f is the rows from f h w to (f + 1) h w.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.cosine import unit64
from greedyprune.ops.ranking import ranked

BANDWIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""The variances of the Gaussians."""


def changes(x: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """1 - cosine of each row with its cell's row in the frame before; 2 in the first frame. (n, d) -> (n,) float64

    A zero row has cosine 0 with every row.
    """
    frames = _frames(x, grid)
    found = [torch.full((frames[0].shape[0],), 2.0, dtype=torch.float64, device=x.device)]
    before = unit64(frames[0])
    for frame in frames[1:]:
        now = unit64(frame)
        found.append(1 - (before * now).sum(1).clamp_(-1, 1))
        before = now
    return torch.cat(found)


def quiet_channels(x: Tensor, share: float) -> Tensor:
    """The channels that vary least over all rows: a share of all, at least one. (n, d) -> (c,) ascending

    Ties go to the lowest channel. In float64.
    """
    size = x.abs().amax().double().clamp_min(torch.finfo(torch.float64).tiny)
    # Process some channels at a time, since a long video in float64 is large.
    spread = torch.cat([_spread(x[:, start : start + 256].double() / size) for start in range(0, x.shape[1], 256)])
    count = max(1, int(share * x.shape[1] + 0.5))
    return ranked(-spread / spread.amax().clamp_min(torch.finfo(torch.float64).tiny))[:count].sort().values


def likeness(x: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """The similarity of every row to the mean of the clip, and to the mean of its frame. (n, d) -> 2 x (n,) float64

    Rows are scaled to length 1. The similarity of a row and a mean at distance r is the sum of exp(-r^2 / (2 b)) over
    the bandwidths b = 1/8, 1/4, 1/2, 1, 2.
    """
    frames = _frames(x, grid)
    means = torch.stack([unit64(frame).mean(0) for frame in frames])
    whole = means.mean(0)
    to_clip: list[Tensor] = []
    to_frame: list[Tensor] = []
    for frame, mean in zip(frames, means, strict=True):
        unit = unit64(frame)
        to_clip.append(_gauss(unit - whole))
        to_frame.append(_gauss(unit - mean))
    return torch.cat(to_clip), torch.cat(to_frame)


def _frames(x: Tensor, grid: tuple[int, int, int]) -> list[Tensor]:
    size = grid[1] * grid[2]
    return [x[start : start + size] for start in range(0, x.shape[0], size)]


def _spread(x: Tensor) -> Tensor:
    """The standard deviation of every column. (n, c) -> (c,)"""
    return (x - x.mean(0)).square().mean(0).sqrt()


def _gauss(away: Tensor) -> Tensor:
    """The sum of Gaussians of each row's length. (r, c) -> (r,)"""
    square = away.square().sum(1)
    return torch.stack([(-square / (2 * width)).exp() for width in BANDWIDTHS]).sum(0)
