"""What tells the frames of a clip apart: cells that change, unusual tokens, scenes. Frames are processed one by one.

A clip's rows are those of a grid (t, h, w) in raster order, so frame f is the rows from f h w to (f + 1) h w.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK, unit64
from greedyprune.ops.groups import proportions
from greedyprune.ops.matching import most_similar
from greedyprune.ops.ranking import ranked

BANDWIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""The variances of the Gaussians."""


def changes(x: Tensor, grid: tuple[int, int, int], since: Sequence[int | None] | None = None) -> Tensor:
    """1 - cosine of each row with its cell's row in an earlier frame; 2 if there is none. (n, d) -> (n,) float64

    `since`: the earlier frame for each frame, None for none. The default is the frame before, and none for the first
    one. A zero row has cosine 0 with every row.
    """
    frames = _frames(x, grid)
    found = list[Tensor]()
    for now, before in enumerate([None, *range(len(frames) - 1)] if since is None else since):
        if before is None:
            found.append(torch.full((frames[0].shape[0],), 2.0, dtype=torch.float64, device=x.device))
        else:
            found.append(1 - (unit64(frames[before]) * unit64(frames[now])).sum(1).clamp_(-1, 1))
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


def segments(x: Tensor, grid: tuple[int, int, int], at_least: int, tau: float) -> list[int]:
    """The lengths of the runs of frames that look alike, in order. (n, d) -> (s), the sum is the number of frames

    Frames are compared by the cosine of the means of their rows. A cut is where two consecutive frames have a cosine
    below `tau`, and at the lowest others until there are `at_least` segments; ties go to the earliest. A clip of fewer
    frames is cut everywhere.
    """
    means = unit64(torch.stack([frame.double().mean(0) for frame in _frames(x, grid)]))
    alike = (means[:-1] * means[1:]).sum(1)
    lowest = ranked(-alike)[: max(at_least - 1, int((alike < tau - SLACK).sum()))]
    cuts = cast("list[int]", lowest.sort().values.tolist())  # pyright: ignore[reportUnknownMemberType]
    return [end - start for start, end in pairwise([0, *(cut + 1 for cut in cuts), grid[0]])]


def still_windows(x: Tensor, grid: tuple[int, int, int], tau: float) -> list[tuple[int, Tensor]]:
    """Divide a clip into windows of frames whose still cells save most. (n, d) -> lengths, and still cells (h w,) bool

    A cell is still in a window if the cosine of its rows in all its consecutive frames is above `tau`; in one frame
    none is. c still cells in l frames save c (l - 1) rows. Of equal divisions the one with the latest, shortest windows
    wins. Cost O(n d + t^2).
    """
    t, size = grid[0], grid[1] * grid[2]
    same = changes(x, grid).view(t, size) < 1 - tau - SLACK
    run = torch.zeros(t, size, dtype=torch.int64, device=x.device)
    for frame in range(1, t):
        run[frame] = (run[frame - 1] + 1) * same[frame]
    ends = [row.bincount(minlength=t).flip(0).cumsum(0).flip(0) for row in run]  # cells still for so many steps or more
    still = cast("list[list[int]]", torch.stack(ends).tolist())  # pyright: ignore[reportUnknownMemberType]
    best, first = [0], [0]
    for last in range(1, t):
        saved, start = best[-1], last
        for before in range(last - 1, -1, -1):
            gain = still[last][last - before] * (last - before) + (best[before - 1] if before else 0)
            if gain > saved:
                saved, start = gain, before
        best.append(saved)
        first.append(start)
    windows, last = list[tuple[int, Tensor]](), t - 1
    while last >= 0:
        length = last - first[last] + 1
        windows.append((length, (run[last] >= length - 1) & (length > 1)))
        last = first[last] - 1
    return windows[::-1]


def frame_shares(values: Tensor, grid: tuple[int, int, int]) -> list[float]:
    """Each frame's share of the sum of all values, which are 0 or more, to 12 digits. (n,) -> (t)"""
    return proportions(values.double().view(grid[0], -1).sum(1))


def rooted(x: Tensor, grid: tuple[int, int, int], free: Tensor, tau: float, at_least: int) -> Tensor:
    """Link rows of consecutive frames into trees, and return each free row's root; -1 for the others. (n, d) -> (n,)

    A free row (`free` (n,) bool) is linked to the most similar free row of the frame before if their cosine is above
    `tau`, the most similar pairs first, as long as `at_least` trees are left. A row without a link is a root. Ties go
    to the lowest row. Cost O(n h w d).
    """
    size = grid[1] * grid[2]
    parent = torch.arange(x.shape[0], device=x.device)
    alike = x.new_full((x.shape[0],), -2.0, dtype=torch.float64)
    rows = [start + free[start : start + size].nonzero()[:, 0] for start in range(0, x.shape[0], size)]
    for before, now in pairwise(rows):
        if before.numel() and now.numel():
            alike[now], place = most_similar(x[now], x[before])
            parent[now] = before[place]
    most = max(sum(each.numel() for each in rows) - at_least, 0)
    linked = torch.zeros_like(free)
    linked[ranked(alike)[:most]] = True
    linked &= alike > tau + SLACK
    root = torch.where(linked, parent, torch.arange(x.shape[0], device=x.device))
    for now in rows[1:]:
        root[now] = root[root[now]]
    return torch.where(free, root, -1)


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
