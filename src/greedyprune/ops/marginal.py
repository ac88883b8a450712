"""Maximal marginal relevance: a row's worth minus its similarity to the closest row taken so far."""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK, UnitRows
from greedyprune.ops.nearest import Nearest
from greedyprune.ops.picks import Picks, numbers


def marginal_relevance(
    x: Tensor | UnitRows, worth: Tensor, k: int, trade: float = 0.5, *, given: Tensor | None = None
) -> Picks:
    """Take k rows, each with the largest trade worth_i - (1 - trade) max_{s taken} cos(x_i, x_s).

    (n, d), (n,) -> Picks

    The maximum is 0 before a row is taken. `given` rows are taken first, in their order. Gains are those values. Ties
    (within `SLACK` in float64) go to the lowest row. Cosines are float32, and float64 decides near ties.
    Cost O(k n d), memory O(n d), never an n x n matrix.
    """
    unit = UnitRows.of(x)
    relevance = trade * worth.double().cpu()
    nearest = Nearest(unit, k, relevance, 1 - trade)
    for row in numbers(given) or [int((relevance >= relevance.max() - SLACK).to(torch.uint8).argmax())]:
        nearest.give(row)
    nearest.run(k)
    return nearest.picks()
