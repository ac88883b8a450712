"""Filling a set with the rows that are least similar to it."""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK, unit64


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
