"""Merging inside a scene, a run of frames that look alike: anchors that others join, and trees over time in clusters.

A scene's rows are those of a grid (frames, h, w) in raster order. Merge weights are those of `merging.py`.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from greedyprune.ops.clusters import Clusters, density_peaks
from greedyprune.ops.groups import counts
from greedyprune.ops.matching import most_similar
from greedyprune.ops.merging import alone
from greedyprune.ops.split import split
from greedyprune.ops.video import rooted

NEIGHBOURS = 7
"""The largest number of neighbours, the row itself among them, that the density of a tree or of a still cell counts."""


def clustered(x: Tensor, count: int) -> Clusters:
    """Density peaks with as many neighbours as clusters, but up to 7, and 7 for one cluster. (n, d) -> Clusters"""
    return density_peaks(x, count, min(count, NEIGHBOURS) if count > 1 else NEIGHBOURS, itself=True)


def anchored(quotas: list[int], size: int, share: float, every: int) -> tuple[list[int], list[int]]:
    """Divide each frame's quota: rows that it keeps, and rows that the scene's anchors merge into. (f) -> 2 x (f)

    The share of each quota, rounded down, goes to the anchors together: the last frame and every so many before it.
    What anchors of `size` rows cannot hold, the other frames keep.
    """
    pooled = [math.floor(quota * share + 1e-9) for quota in quotas]
    own = [quota - part for quota, part in zip(quotas, pooled, strict=True)]
    anchor = [(len(quotas) - 1 - frame) % every == 0 for frame in range(len(quotas))]
    room = [(size - kept) * here for kept, here in zip(own, anchor, strict=True)]
    merging = split(min(sum(pooled), sum(room)), [float(here) for here in anchor], at_most=room)
    free = [(size - kept) * (not here) for kept, here in zip(own, anchor, strict=True)]
    more = split(sum(pooled) - sum(merging), [float(not here) for here in anchor], at_most=free)
    return [kept + extra for kept, extra in zip(own, more, strict=True)], merging


def joined_by(x: Tensor, rows: Tensor, targets: Tensor, least: float) -> Tensor:
    """Let each of some rows join the most similar target, and merge. (n, d), (r,), (c,) of the n -> weights (c, n)

    If m rows join a target, itself among them, it becomes w times itself and 1 - w times their mean,
    w = max(least, 1 / (m + 1)).
    """
    joins = most_similar(x[rows], x[targets])[1]
    count = joins.bincount(minlength=targets.shape[0]).float()
    own = (1 / (count + 1)).clamp_min(least)
    weights = alone(targets, x.shape[0]) * own[:, None]
    weights[joins, rows] += ((1 - own) / count.clamp_min(1))[joins]
    return weights


def merged_trees(x: Tensor, grid: tuple[int, int, int], free: Tensor, k: int, tau: float) -> tuple[Tensor, Tensor]:
    """Link the free rows of a scene to trees over time, and merge these into k. -> rows (k,), weights (k, n)

    The links are those of `rooted`. A tree is the mean of its rows, in the frame of its root. Frames share k, one each
    and then by their trees, and merge theirs into clusters. A cluster is the mean of its trees, at the root of its
    centre. A frame that gets nothing loses its trees. (n, d), (n,) bool
    """
    members, size = free.nonzero()[:, 0], grid[1] * grid[2]
    root = rooted(x, grid, free, tau, k)[members]
    trees = cast("Tensor", cast("Any", root).unique())
    number = torch.searchsorted(trees, root)
    count = number.bincount(minlength=trees.shape[0])
    sums = x.new_zeros(trees.shape[0], x.shape[1], dtype=torch.float64).index_add_(0, number, x[members].double())
    means, frame = sums / count[:, None], trees // size
    trees_of = counts(frame, torch.arange(trees.shape[0], device=x.device), grid[0])
    quotas = split(k, [float(each) for each in trees_of], at_least=1, at_most=trees_of)
    cluster, found = torch.full_like(trees, -1), list[Tensor]()
    for own, quota in enumerate(quotas):
        if quota:
            here = (frame == own).nonzero()[:, 0]
            clusters = clustered(means[here], quota)
            cluster[here] = clusters.of + sum(quotas[:own])
            found.append(trees[here[clusters.centres]])
    inside, of = cluster[cluster >= 0].bincount(minlength=k), cluster[number]
    kept = of >= 0
    weights = torch.zeros(k, x.shape[0], device=x.device)
    weights[of[kept], members[kept]] = 1 / (inside[of[kept]] * count[number[kept]]).float()
    return torch.cat(found), weights


def merged_cells(x: Tensor, rows: Tensor, k: int, beta: float) -> tuple[Tensor, Tensor]:
    """Average cells over frames, and merge them into k centres. -> their rows in the first frame (k,), weights (k, n)

    `rows` (f, c): the rows of c cells in f frames. A centre to which others are nearest becomes beta times itself and
    1 - beta times their mean. (n, d) -> (k,), (k, n)
    """
    found = clustered(x[rows.flatten()].double().view(*rows.shape, -1).mean(0), k)
    others = torch.ones_like(found.of, dtype=torch.bool)
    others[found.centres] = False
    count = found.of[others].bincount(minlength=k)
    own = torch.where(count > 0, beta, 1.0)
    share = ((1 - own) / count.clamp_min(1))[found.of]
    share[found.centres] = own
    weights = torch.zeros(k, x.shape[0], device=x.device)
    weights[found.of.expand_as(rows), rows] = (share / rows.shape[0]).expand_as(rows)
    return rows[0, found.centres], weights
