"""The principal directions of an image's rows: their effective number, and the strongest one of each row."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from greedyprune.ops.cosine import unit64

FAINT = 1e-12
"""Eigenvalues below this share of the largest are rounding errors, not directions."""
EVEN = 1e-9
"""A row is equally far on two components if the distances differ by at most this. Rounding errors are smaller."""


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
    """The one of the first `count` principal components on which each row is farthest from the mean. (n, d) -> (n,)

    Component 0 has the largest variance. A row that is equally far on several components is in the group of the first.
    So a row that equals the mean is in group 0, and components without variance have no rows. In float64.
    Cost: the smaller of the two Gram matrices, and its eigenvectors.
    """
    x = x.double()
    centred = x - x.mean(0)
    n, d = x.shape
    found = cast("tuple[Tensor, Tensor]", torch.linalg.eigh(_smaller(centred)))  # pyright: ignore[reportUnknownMemberType]
    values, vectors = _without_faint(found[0].flip(0)), found[1].flip(1)
    scores = vectors * values.sqrt() if n <= d else centred @ vectors * (values > 0)
    size = scores[:, :count].abs()
    return (size >= size.amax(1, keepdim=True) - EVEN).to(torch.uint8).argmax(1)


def _smaller(x: Tensor) -> Tensor:
    """The smaller of x x^T and x^T x. Both have the same eigenvalues apart from zeros. (n, d) -> (min, min)"""
    return x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x


def _without_faint(values: Tensor) -> Tensor:
    return torch.where(values > FAINT * values.amax(), values, torch.zeros_like(values))
