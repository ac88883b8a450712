"""Scores that flow along a graph of similar rows."""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.ops.cosine import SLACK, cosine64


def propagate(x: Tensor, threshold: float, temperature: float, steps: int) -> Tensor:
    """The score that flows to each row from similar rows, divided by its number of links. (n, d) -> (n,) float64

    Two rows are linked if their cosine is above the threshold, and every row is linked with itself. A score starts as
    the row's length, the longest with 1. In every step a row passes all of its score along its links, in the
    proportion of softmax(cosine / temperature). So the sum of scores is constant.
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
    """The length of each row as a share of the longest; 0 if all rows are zero. (n, d) -> (n,) float64"""
    x = x.double()
    x = x / x.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)  # so that no square overflows
    length = x.square().sum(1).sqrt()
    return length / length.amax().clamp_min(torch.finfo(torch.float64).tiny)
