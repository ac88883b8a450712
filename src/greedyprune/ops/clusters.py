"""Density-peak clustering with k nearest neighbours (DPC-kNN): centres are rows in dense places, far from denser ones.

All distances are computed in float64 from the differences of rows, so equal rows are at distance 0. A block of rows is
processed at a time, so no n x n matrix exists. `cosine_density` counts near rows by their cosines instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks
from greedyprune.ops.cosine import SLACK, unit64
from greedyprune.ops.ranking import ranked

FARTHEST = 1e150
"""The largest distance. Larger ones are clamped to it, so that their squares are finite."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """The clusters that the engine found."""

    centres: Tensor
    """(c,) the rows at the centres, the highest score first."""
    of: Tensor
    """(n,) the cluster of each row, as a place in `centres`."""


def density_peaks(x: Tensor, count: int, neighbours: int, *, itself: bool = False) -> Clusters:
    """`count` clusters, 0 < count <= n, none of them empty. (n, d) -> Clusters

    The density of row i is rho_i = exp(-mean of its squared distances to the `neighbours` nearest other rows). delta_i
    is its distance to the nearest denser row (for the densest row, to the farthest row). The centres are the rows with
    the largest rho_i delta_i. Every row joins the nearest centre. Squared distances are means over the d channels, so
    densities are comparable at every width.

    `itself`: the row itself, at distance 0, is one of its neighbours, and delta of the densest row is the largest
    distance of any two rows. Released code of video methods counts so.

    Products are compared as log rho + log delta, which do not underflow. Ties go to the lowest row (see `ranking.py`).
    Of two equally dense rows the lower one counts as denser. Cost O(n^2 d), memory O(n d).
    """
    x = x.double()
    n = x.shape[0]
    near, own = min(neighbours - itself, n - 1), int(itself)
    density = torch.cat(
        [
            d.scatter(1, some[:, None], torch.inf).topk(near, largest=False).values.square().sum(1)
            / -max(near + own, 1)
            for some, d in _distances(x, x)
        ]
    )
    rank = torch.empty_like(order := ranked(density))
    rank[order] = torch.arange(n, device=x.device)
    delta: list[Tensor] = []
    farthest: list[Tensor] = []
    for some, d in _distances(x, x):
        delta.append(d.masked_fill(rank >= rank[some, None], torch.inf).amin(1))
        farthest.append(d.amax(1))
    far = torch.cat(farthest)
    nearest = torch.cat(delta)
    nearest = torch.where(nearest.isinf(), far.amax() if itself else far, nearest)
    centres = ranked(density + nearest.log())[:count]
    return Clusters(centres, _assigned(x, centres))


def cosine_density(x: Tensor, width: float) -> Tensor:
    """How many rows are near each row: the sum over all rows j of exp(-((1 - cos_ij) / width)²). (n, d) -> (n,)

    It is float64, a block of rows at a time. Cost O(n² d), memory O(n d).
    """
    units, found = unit64(x), list[Tensor]()
    for some in in_blocks(torch.arange(x.shape[0], device=x.device), x.shape[0]):
        distances = 1 - (units[some] @ units.T).clamp_(-1, 1)
        found.append(torch.exp(-(distances / width).square()).sum(1))
    return torch.cat(found)


def _assigned(x: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of every row, ties to the centre with the lowest row. (n, d), (c,) -> (n,) places in it"""
    lowest, place = centres.sort()
    nearest = [(d <= d.amin(1, True) * (1 + SLACK)).to(torch.uint8).argmax(1) for _, d in _distances(x, x[lowest])]
    of = place[torch.cat(nearest)]
    of[centres] = torch.arange(centres.shape[0], device=x.device)  # equal centres stay apart
    return of


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield blocks of rows of x with their root mean square distances from all rows of y. -> (b,), (b, m)"""
    for some in in_blocks(torch.arange(x.shape[0], device=x.device), y.shape[0]):
        distances = torch.cdist(x[some], y, compute_mode="donot_use_mm_for_euclid_dist")
        yield some, (distances / x.shape[1] ** 0.5).clamp_(max=FARTHEST)
