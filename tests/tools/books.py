"""Plain float64 loops that several methods are held to: cosines, the best of some values, greedy coverage."""

from __future__ import annotations

import math

from torch import Tensor

Rows = list[list[float]]


def cosines(x: Tensor, y: Tensor) -> Rows:
    a, b = x.double().tolist(), y.double().tolist()
    size = lambda v: math.sqrt(math.fsum(c * c for c in v))  # noqa: E731
    return [[math.fsum(p * q for p, q in zip(u, v, strict=True)) / (size(u) * size(v)) for v in b] for u in a]


def first(values: dict[int, float]) -> int:
    """The highest, the lowest index of those that tie."""
    best = max(values.values())
    return min(i for i, value in values.items() if value >= best - 1e-12 * max(1.0, abs(best)))


def covering(benefit: Rows, share: list[float], factor: list[float], k: int) -> list[int]:
    """Greedy maximum coverage; benefit[r][j] is what j is worth to row r."""
    covered = [0.0] * len(benefit)
    order: list[int] = []
    while len(order) < k:
        gain = {
            j: factor[j]
            * math.fsum(w * max(0.0, row[j] - c) for w, row, c in zip(share, benefit, covered, strict=True))
            for j in range(len(factor))
            if j not in order
        }
        order.append(first(gain))
        covered = [max(c, row[order[-1]]) for c, row in zip(covered, benefit, strict=True)]
    return order
