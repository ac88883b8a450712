"""GreedyPrune by the book, in float64 and plain loops: the reference that the fast engine must equal, order included.

It shares no code with the library. One convention is shared: float64 cosines within 1e-12 of a threshold count as equal
to it, which only matters for pairs that sit on the threshold exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLACK = 1e-12


def unit(row: Tensor) -> Tensor:
    """The row scaled to length 1 in float64; a zero row stays zero. (d,) -> (d,)"""
    row = row.double()
    largest = row.abs().max()
    if largest == 0:
        return row
    row = row / largest  # squares of any finite float32 stay in range
    return row / row.square().sum().sqrt()


def cosines(x: Tensor) -> list[list[float]]:
    """Cosine of every pair, each from its own dot product. (n, d) -> n lists of n"""
    units = torch.stack([unit(row) for row in x])
    return [[float((a * b).sum()) for b in units] for a in units]


def saliency(x: Tensor, t: Tensor) -> list[float]:
    """Cosine of every row with t. (n, d), (d,) -> n floats"""
    target = unit(t)
    return [min(1.0, max(-1.0, float((unit(row) * target).sum()))) for row in x]


def quantile(gram: list[list[float]], q: float) -> float:
    """The q-quantile over pairs i < j, linear between neighbours."""
    pairs = sorted(gram[i][j] for i in range(len(gram)) for j in range(i + 1, len(gram)))
    if not pairs:
        return 1.0
    place = q * (len(pairs) - 1)
    low = math.floor(place)
    high = min(low + 1, len(pairs) - 1)
    return pairs[low] + (place - low) * (pairs[high] - pairs[low])


def greedy(x: Tensor, t: Tensor, k: int, tau: float | None = None, q: float | None = None) -> tuple[list[int], int]:
    """Selection order and how many were taken before the fallback by saliency. Give tau, or q for a quantile."""
    gram, worth = cosines(x), saliency(x, t)
    if tau is None:
        assert q is not None
        tau = quantile(gram, q)
    ranking = sorted(range(len(worth)), key=lambda i: (-worth[i], i))
    taken: list[int] = []
    active = set(ranking)
    while len(taken) < k and active:
        best = next(i for i in ranking if i in active)
        taken.append(best)
        active -= {best} | {j for j in active if gram[best][j] > tau + SLACK}
    own = len(taken)
    rest = [i for i in ranking if i not in set(taken)]
    return taken + rest[: k - own], own
