"""Softmax attention from queries and keys: the rows of some queries, and the attention that each token receives.

Everything is computed in float64, so equal keys get equal weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**23
"""The number of scores in memory at once: 64 MiB in float64. All scores of a large image would take gigabytes."""


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
    """Compute the mean attention row of all queries, block by block. (b, h, n, c), (b, g, n, c), (b, 1, n) -> (b, n)"""
    batch, heads, count = queries.shape[:3]
    total = torch.zeros(batch, count, dtype=torch.float64, device=queries.device)
    for block in queries.split(max(1, BLOCK // (batch * heads * count)), 2):
        total += attention_rows(block, keys, scale, bias, one=one).sum(1)
    return total / count
