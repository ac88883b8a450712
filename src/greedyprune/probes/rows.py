"""Softmax attention from queries and keys: some queries' rows, and what every token receives from all queries.

Everything is computed in float64, so equal keys get equal weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**23
"""How many scores are held at once: 64 MiB in float64. The full square of a large image would take gigabytes."""


def attention_rows(
    queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None = None, *, one: bool = False
) -> Tensor:
    """Each query's softmax attention, the mean over heads. (b, h, q, c), (b, g, t, c), (b, 1 or q, t) -> (b, q, t)

    h / g neighbouring query heads share a key head. `one`: all heads are one over their full width, q . k / sqrt(h c).
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
    """The mean row of all queries, made in blocks of them. (b, h, n, c), (b, g, n, c), (b, 1, n) -> (b, n)"""
    batch, heads, count = queries.shape[:3]
    total = torch.zeros(batch, count, dtype=torch.float64, device=queries.device)
    for block in queries.split(max(1, BLOCK // (batch * heads * count)), 2):
        total += attention_rows(block, keys, scale, bias, one=one).sum(1)
    return total / count
