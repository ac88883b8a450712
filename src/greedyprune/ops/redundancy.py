"""Filling a set that a threshold left too small: by the ranking, by the least similar rows, by a higher threshold."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK, UnitRows, unit64
from greedyprune.ops.suppression import critical_tau, suppress

Fallback = Literal["saliency", "least_redundant", "relax", "none"]


def filled(how: Fallback, x: UnitRows, free: Tensor, own: Tensor, k: int, tau: float, given: Tensor | None) -> Tensor:
    """Fill the taken rows `own` up to k, unless there are k or the fallback is "none". (n, d), (c,), (m,) -> (k,)

    `free`: the rows that may be taken, ranked; `tau`: the threshold that took `own`; `given`: the rows taken first.
    """
    missing = k - own.shape[0]
    if missing <= 0 or how == "none":
        return own
    if how == "relax":
        return suppress(x, free, critical_tau(x, free, k, min(tau, 1.0), given=given), k, given=given).order
    rest = free[~torch.isin(free, own)]
    return torch.cat([own, rest[:missing] if how == "saliency" else least_redundant(x.x, own, rest, missing)])


def least_redundant(x: Tensor, taken: Tensor, rest: Tensor, extra: int) -> Tensor:
    """Take `extra` rows of `rest`, each the one whose largest cosine with all taken so far is smallest.

    Ties go to the first row in `rest`. All is float64. Cost O(c m d) for c rows left and m taken, then O(c d) for each
    added row. (n, d), (m,), (c,) -> (extra,)
    """
    units = unit64(x[rest])
    worst = (units @ unit64(x[taken]).T).clamp_(-1, 1).amax(1)
    added: list[int] = []
    for _ in range(extra):
        best = int((worst <= worst.min() + SLACK).to(torch.uint8).argmax())
        added.append(best)
        worst = torch.maximum(worst, (units @ units[best]).clamp_(-1, 1))
        worst[added] = torch.inf
    return rest[added]
