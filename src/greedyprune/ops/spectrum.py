"""The principal directions of an image's rows: their effective number, and the one that each row weighs most in."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from greedyprune.ops.cosine import unit64

FAINT = 1e-12
"""Eigenvalues below this share of the largest are rounding errors, not directions."""
EVEN = 1e-9
"""A row weighs equally in two components if the weights differ by at most this. Rounding errors are smaller."""


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the singular values of the unit rows, as shares of their sum. (n, d) -> float

    It is 1 if all rows are parallel, at most min(n, d), and 0 if all are zero (Roy and Vetterli, 2007). In float64.
    Cost: the smaller of the two Gram matrices, and its eigenvalues.
    """
    unit = unit64(x)
    values = cast("Tensor", torch.linalg.eigvalsh(_smaller(unit)))  # pyright: ignore[reportUnknownMemberType]
    sizes = _without_faint(values).sqrt()
    if not bool(sizes.any()):
        return 0.0
    shares = sizes[sizes > 0] / sizes.sum()
    return float((-(shares * shares.log()).sum()).exp())


def principal_groups(x: Tensor, count: int) -> Tensor:
    """The one of the first `count` principal components in which each row weighs most. (n, d) -> (n,)

    The d channels are the samples and the n rows the variables, each without its own mean. So a component is a unit
    vector of n weights, and component 0 has the largest variance. A row that weighs equally in several components is in
    the group of the first, a row without variance in group 0. Components without variance have no rows. In float64.
    Cost: the smaller of the two Gram matrices, and its eigenvectors.
    """
    x = x.double()
    centred = x - x.mean(1, keepdim=True)
    found = cast("tuple[Tensor, Tensor]", torch.linalg.eigh(_smaller(centred)))  # pyright: ignore[reportUnknownMemberType]
    values, vectors = _without_faint(found[0].flip(0)), found[1].flip(1)
    scale = torch.where(values > 0, 1 / values.sqrt(), 0.0)
    weights = vectors * (values > 0) if x.shape[0] <= x.shape[1] else centred @ vectors * scale
    size = weights[:, :count].abs()
    return (size >= size.amax(1, keepdim=True) - EVEN).to(torch.uint8).argmax(1)


def _smaller(x: Tensor) -> Tensor:
    """The smaller of x x^T and x^T x. Both have the same eigenvalues apart from zeros. (n, d) -> (min, min)"""
    return x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x


def _without_faint(values: Tensor) -> Tensor:
    return torch.where(values > FAINT * values.amax(), values, torch.zeros_like(values))
