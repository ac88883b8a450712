"""What may be done to rows before their cosines are taken.

Results are float32 (float64 for float64 rows), element by element, so they are the same on every device and thread
count; later decisions are about these values.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Preprocess = Literal["none", "rmsnorm", "center"]
Words = Literal["last", "question_mean", "question_max"]


def widen(x: Tensor) -> Tensor:
    """Half-precision rows as float32; others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rmsnorm(x: Tensor, weight: Tensor) -> Tensor:
    """RMS normalisation up to the length of each row, which no cosine sees: x * weight. (n, d), (d,) -> (n, d)"""
    return widen(x) * weight.to(widen(x).dtype)


def mean_row(x: Tensor) -> Tensor:
    """The mean of all rows, summed in float64. (n, d) -> (d,)"""
    return x.double().mean(0).to(widen(x).dtype)


def comparable(how: Preprocess, x: Tensor, text: Tensor, norm: Tensor | None) -> tuple[Tensor, Tensor]:
    """Visual and text rows as they are compared: as they are, through the final norm, or without the visual mean.

    (n, d), (m, d) -> (n, d), (m, d)
    """
    if how == "rmsnorm":
        if norm is None:
            raise ValueError('preprocess="rmsnorm" needs norm=, the (d,) weight of the decoder\'s final norm.')
        return rmsnorm(x, norm), rmsnorm(text, norm)
    if how == "center":
        mean = mean_row(x)
        return x.to(mean.dtype) - mean, text.to(mean.dtype) - mean
    return x, text


def asked(which: Words, text: Tensor, question: slice | None) -> Tensor:
    """The text rows that saliency is measured against: the last, the question's mean, or all of the question."""
    if which == "last":
        return text[-1:]
    words = text[question] if question is not None else text
    return mean_row(words)[None] if which == "question_mean" else words
