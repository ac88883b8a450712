"""Centring: subtract the mean of the visual tokens from every row before any cosine (Cen-Prune).

The common part of all tokens raises every cosine. Without it, cosines separate tokens better.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from greedyprune.ops.preprocess import comparable

Centring = Literal["none", "center"]


def check_centring(how: str) -> None:
    """Raise ValueError unless `how` is "none" or "center"."""
    if how not in get_args(Centring):
        raise ValueError(f"preprocess={how!r} is unknown: choose one of {', '.join(get_args(Centring))}.")


def prepared(how: Centring, x: Tensor) -> Tensor:
    """Prepare the rows for comparison. (n, d) -> (n, d)"""
    return comparable(how, x, x[:0], None)[0]
