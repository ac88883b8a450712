"""What the principal directions of an image's rows say: how many there are, and which one a row is about."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from greedyprune.ops.cosine import unit64

FAINT = 1e-12
"""Eigenvalues below this share of the largest are rounding, not directions."""
EVEN = 1e-9
"""How far rows on two components may differ and be equally far: what rounding leaves where rows are equal is less."""


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the singular values of the unit rows, as shares of their sum. (n, d) -> float

    1 where all rows are parallel, at most min(n, d), 0 where all are zero (Roy and Vetterli, 2007). In float64.
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
    """On which of the first `count` principal components each row lies farthest from the mean row. (n, d) -> (n,)

    Component 0 has the largest variance. A row equally far on several is in the first one's group, so a row that is the
    mean is in group 0, and components without variance have no rows. In float64.
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
    """x x^T or x^T x, whichever is smaller: they share all eigenvalues that are not 0. (n, d) -> (min, min)"""
    return x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x


def _without_faint(values: Tensor) -> Tensor:
    return torch.where(values > FAINT * values.amax(), values, torch.zeros_like(values))
