"""Centring: the mean of the visual tokens is taken off every row before any cosine (Cen-Prune).

What all tokens share makes all of them alike; without it, cosines tell tokens apart.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from greedyprune.ops.preprocess import comparable

Centring = Literal["none", "center"]


def check_centring(how: str) -> None:
    """Raise unless this is a way of preparing rows."""
    if how not in get_args(Centring):
        raise ValueError(f"preprocess={how!r} is unknown: choose one of {', '.join(get_args(Centring))}.")


def prepared(how: Centring, x: Tensor) -> Tensor:
    """The rows that are compared. (n, d) -> (n, d)"""
    return comparable(how, x, x[:0], None)[0]
