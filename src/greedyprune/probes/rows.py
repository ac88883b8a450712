"""Softmax attention from queries and keys: the rows of some queries, and the attention that each token receives.

Everything is computed in float64, so equal keys get equal weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**23
"""The number of scores in memory at once: 64 MiB in float64. All scores of a large image would take gigabytes."""

HIDDEN = -1e4
"""A bias below this hides a key. Masks hold the lowest float of their type, which is -65504 in float16."""


def attention_rows(
    queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None = None, *, one: bool = False
) -> Tensor:
    """Compute the attention weights of each query, the mean over heads.

    (b, h, q, c), (b, g, t, c), (b, 1 or q, t) -> (b, q, t). h / g neighbouring query heads share a key head. `one`:
    treat all heads as one head over the full width, q . k / sqrt(h c).
    """
    grouped = queries.double().unflatten(1, (keys.shape[1], -1))
    scores = (grouped @ keys.double()[:, :, None].transpose(-1, -2)).flatten(1, 2)
    if one:
        scores, scale = scores.sum(1, keepdim=True), (queries.shape[1] * queries.shape[3]) ** -0.5
    scores = scores * scale
    if bias is not None:
        scores = scores + bias.double()[:, None]
    return scores.softmax(-1).mean(1)


def received(queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None = None, *, one: bool = False) -> Tensor:
    """Compute the attention that each row receives, the mean over the rows that see it, block by block.

    (b, h, n, c), (b, g, n, c), (b, 1 or n, n) -> (b, n). A row is padding if the bias hides it from every query: it
    sees none, and receives 0.
    """
    batch, heads, count = queries.shape[:3]
    total = torch.zeros(batch, count, dtype=torch.float64, device=queries.device)
    seen = None if bias is None else bias > HIDDEN
    real = torch.ones_like(total) if seen is None else seen.any(1).expand(batch, -1).double()
    size = max(1, BLOCK // (batch * heads * count))
    for first in range(0, count, size):
        at = slice(first, first + size)
        mine = bias if bias is None or bias.shape[1] == 1 else bias[:, at]
        rows = attention_rows(queries[:, :, at], keys, scale, mine, one=one)
        total += (rows * real[:, at, None]).sum(1)
    if seen is None or seen.shape[1] == 1:
        return total / real.sum(1, keepdim=True)
    return total / (seen * real[:, :, None]).sum(1).clamp_min(1)
