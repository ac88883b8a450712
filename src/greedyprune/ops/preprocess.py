"""Preparation of rows before their cosines.

Results are float32, and float64 for float64 rows. Later decisions use these values. If one would overflow, all are
float64 with one common scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from greedyprune.ops.unit_centre import unit_centred
from greedyprune.resident import resident
from greedyprune.saliencies import Words

Preprocess = Literal["none", "rmsnorm", "center"]


def widen(x: Tensor) -> Tensor:
    """Convert half-precision rows to float32. Others stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rmsnorm(x: Tensor, weight: Tensor) -> Tensor:
    """RMS normalisation without the division by a row's length: x * weight, for cosines. (n, d), (d,) -> (n, d)"""

    def wide() -> Tensor:
        rows = x.double()
        return rows / rows.abs().amax() * weight.double()

    return finite_or(widen(x) * weight.to(widen(x).dtype), wide)


def finite_or(rows: Tensor, wide: Callable[[], Tensor]) -> Tensor:
    """The rows, or those of `wide()` in float64 if a number overflowed. A GPU is not asked: all are float64 there."""
    if resident(rows):
        return torch.where(rows.isfinite().all(), rows.double(), wide())
    return rows if bool(rows.isfinite().all()) else wide()


def mean_row(x: Tensor) -> Tensor:
    """The mean of all rows, summed in float64. (n, d) -> (d,)"""
    mean = x.double().mean(0)
    if x.dtype == torch.float64:  # its sums may overflow, those of narrower types cannot
        mean = torch.where(mean.isfinite(), mean, (x / max(x.shape[0], 1)).sum(0))
    return mean.to(widen(x).dtype)


def comparable(how: Preprocess, x: Tensor, text: Tensor, norm: Tensor | None) -> tuple[Tensor, Tensor]:
    """Prepare visual and text rows for comparison: unchanged, with the final norm, or unit-centred.

    (n, d), (m, d) -> (n, d), (m, d)
    """
    if how == "rmsnorm":
        if norm is None:
            raise ValueError('preprocess="rmsnorm" needs norm=, the (d,) weight of the decoder\'s final norm.')
        return rmsnorm(x, norm), rmsnorm(text, norm)
    if how == "center":
        return unit_centred(x, text)
    return x, text


def asked(which: Words, text: Tensor | None, question: slice | None) -> Tensor:
    """The text rows for the saliency: the last row, the question's mean, or all rows of the question or the chat.

    Raises ValueError if there is no text.
    """
    if text is None:
        raise ValueError(f"text={which!r} reads text rows, and there are none: pass text=, their (m, d) rows.")
    if which == "last":
        return text[-1:]
    if which == "chat_max":
        return text if question is None else text[question.start :]
    words = text[question] if question is not None else text
    return mean_row(words)[None] if which == "question_mean" else words
