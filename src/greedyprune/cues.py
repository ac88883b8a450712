"""Cues: what a method may look at, for one image; and needs, how a method says which of them it cannot do without."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Need:
    """Something in the cues that a method requires beyond the features."""

    def met(self, cues: Cues) -> bool:
        """Whether these cues hold it."""
        raise NotImplementedError

    remedy = ""


@dataclass(frozen=True)
class Text(Need):
    """The prompt's text rows."""

    remedy = "pass text=, the (m, d) rows of the prompt at the same stage, the last prompt token last"

    def met(self, cues: Cues) -> bool:
        return cues.text is not None and cues.text.shape[0] > 0


@dataclass(frozen=True)
class Grid(Need):
    """The grid the tokens came from."""

    remedy = "pass grid=(t, h, w) with t*h*w equal to the number of tokens"

    def met(self, cues: Cues) -> bool:
        return cues.grid is not None


@dataclass(frozen=True, eq=False)
class Cues:
    """What a method may look at for one image. n visual tokens of width d, m text tokens.

    Shapes are checked here; values (NaN, infinity) where a selection is made, so that building cues costs nothing.
    """

    features: Tensor
    """(n, d) the image's rows at the stage: the projector's output, or the states entering decoder layer l."""
    text: Tensor | None = None
    """(m, d) all non-visual, non-padding prompt rows at the same stage, in order; the last is the last prompt token."""
    question: slice | None = None
    """Which text rows are the question: those after the last visual token, else all."""
    grid: tuple[int, int, int] | None = None
    """(t, h, w) where t*h*w = n, in raster order; None where no grid fits."""

    protect: Tensor | None = None
    """(p,) tokens that must be kept, ascending."""
    norm: Tensor | None = None
    """(d,) the weight of the decoder's final RMS norm."""

    def __post_init__(self) -> None:
        if not isinstance(self.features, torch.Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"features is a {type(self.features).__name__}: pass an (n, d) torch tensor.")
        if self.features.ndim != 2 or not self.features.is_floating_point():
            raise ValueError(
                f"features has shape {tuple(self.features.shape)} and type {self.features.dtype}: "
                "pass one image's rows, a floating-point tensor of shape (n, d)."
            )
        if self.text is not None and (self.text.ndim != 2 or self.text.shape[1] != self.features.shape[1]):
            raise ValueError(
                f"text has shape {tuple(self.text.shape)}, but the visual rows have width {self.features.shape[1]}: "
                "pass (m, d) rows of the same stage."
            )
        if self.grid is not None and (
            len(self.grid) != 3 or min(self.grid) < 1 or self.grid[0] * self.grid[1] * self.grid[2] != self.n
        ):
            raise ValueError(f"grid={self.grid} does not hold {self.n} tokens: (t, h, w) needs t*h*w = {self.n}.")
        if self.norm is not None and self.norm.shape != (self.features.shape[1],):
            raise ValueError(f"norm has shape {tuple(self.norm.shape)}: the rows have width {self.features.shape[1]}.")
        if self.protect is not None:
            self._check_protect(self.protect)

    def _check_protect(self, rows: Tensor) -> None:
        if rows.ndim != 1 or rows.dtype != torch.int64:
            raise ValueError(
                f"protect has shape {tuple(rows.shape)} and type {rows.dtype}: pass (p,) token numbers, int64."
            )
        listed = rows.cpu()
        if rows.numel() and (int(listed[0]) < 0 or int(listed[-1]) >= self.n or not bool((listed.diff() > 0).all())):
            raise ValueError(f"protect={listed!r}: token numbers must be distinct, ascending, from 0 to {self.n - 1}.")

    @property
    def n(self) -> int:
        """How many visual tokens there are."""
        return self.features.shape[0]

    def require_finite(self) -> None:
        """Raise if any cue holds NaN or infinity, naming the cue and the first bad row."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                continue
            # One number nearly always answers: a finite sum has only finite terms. An overflow goes on to the rows.
            if bool(torch.isfinite(value.sum(dtype=torch.promote_types(value.dtype, torch.float32)))):
                continue
            bad = (~torch.isfinite(value)).reshape(value.shape[0], -1).any(1).nonzero()
            if bad.numel():
                raise ValueError(
                    f"{field.name} holds NaN or infinity, first in row {int(bad[0])} of {value.shape[0]}: "
                    "check the model's inputs and its precision (float16 overflows where bfloat16 does not)."
                )
