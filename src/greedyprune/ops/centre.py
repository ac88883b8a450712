"""Centring as Cen-Prune has it: subtract the mean of the visual tokens from every row before any cosine.

The common part of all tokens raises every cosine. Without it, cosines separate tokens better.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from greedyprune.ops.preprocess import finite_or, mean_row

Centring = Literal["none", "center"]


def check_centring(how: str) -> None:
    """Raise ValueError unless `how` is "none" or "center"."""
    if how not in get_args(Centring):
        raise ValueError(f"preprocess={how!r} is unknown: choose one of {', '.join(get_args(Centring))}.")


def prepared(how: Centring, x: Tensor) -> Tensor:
    """Prepare the rows for comparison. (n, d) -> (n, d)"""
    return _without(x, mean_row(x)) if how == "center" else x


def prepared_with(how: Centring, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Prepare visual and text rows; all lose the visual mean. (n, d), (m, d) -> (n, d), (m, d)"""
    return (_without(x, mean := mean_row(x)), _without(text, mean)) if how == "center" else (x, text)


def _without(x: Tensor, mean: Tensor) -> Tensor:
    """Subtract the mean from rows, in its type. (n, d), (d,) -> (n, d)"""
    return finite_or(x.to(mean.dtype) - mean, lambda: x.double() / 4 - mean.double() / 4)
