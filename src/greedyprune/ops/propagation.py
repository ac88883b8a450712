"""Scores that flow along a graph of similar rows."""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK, cosine64


def propagate(x: Tensor, threshold: float, temperature: float, steps: int) -> Tensor:
    """What flows to each row from the rows it is similar to, for each of its links. (n, d) -> (n,) float64

    Rows are linked where their cosine is above the threshold, and every row with itself. Each starts with its length as
    a score, the longest with 1. In every step a row hands all of its score on, over its links, in the proportion of
    softmax(cosine / temperature); so the sum of scores stays. In the end each is divided by its number of links.
    Cost O(n^2 d) and O(n^2) per step, memory O(n^2), in float64.
    """
    cosines = cosine64(x, x)
    linked = (cosines > threshold + SLACK).fill_diagonal_(True)
    hands = (cosines / temperature).masked_fill(~linked, -torch.inf).softmax(1)
    scores = relative_length(x)
    for _ in range(steps):
        scores = hands.T @ scores
    return scores / linked.sum(1)


def relative_length(x: Tensor) -> Tensor:
    """The length of each row as a share of the longest, 0 where all are zero. (n, d) -> (n,) float64"""
    x = x.double()
    x = x / x.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)  # so that no square overflows
    length = x.square().sum(1).sqrt()
    return length / length.amax().clamp_min(torch.finfo(torch.float64).tiny)
