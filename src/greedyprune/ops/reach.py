"""Greedy suppression in a fixed order, with one threshold per row."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from greedyprune.ops.cosine import UnitRows, exceeds, product
from greedyprune.ops.picks import numbers


def suppress_by_own(
    x: Tensor | UnitRows, order: Tensor, taus: Tensor, k: int, *, given: Tensor | None = None
) -> Tensor:
    """Walk through `order`, take each row whose cosine with every taken row s is <= taus[s], and stop at k.

    (n, d), (c,), (n,) -> (m <= k,) rows in the order taken. `given` rows (not in `order`) are taken first, in their
    order, and suppress like any other. Decisions are those of float64 (see `cosine.py`).
    Cost O(n d) per row taken, memory O(n d). If all rows have one threshold, `suppress` is faster.
    """
    unit = UnitRows.of(x)
    units, everything = unit.all(), torch.arange(unit.x.shape[0], device=unit.x.device)
    limits = cast("list[float]", taus.double().tolist())  # pyright: ignore[reportUnknownMemberType]
    taken = numbers(given)
    queue = order

    def reached(row: int) -> Tensor:
        """True for the rows that one row passes over. -> (n,) bool"""
        one = everything[row : row + 1]
        return exceeds(product(units[one], units), limits[row], unit.x, one, everything)[0]

    for row in taken:
        queue = queue[~reached(row)[queue]]
    while queue.numel() and len(taken) < k:
        row = int(queue[0])
        taken.append(row)
        queue = queue[1:]
        if len(taken) < k:
            queue = queue[~reached(row)[queue]]
    return torch.tensor(taken, dtype=torch.int64, device=unit.x.device)
