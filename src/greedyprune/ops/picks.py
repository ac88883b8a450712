"""The result of a greedy engine: rows in the order taken, and the value of each when it was taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Picks:
    """Rows picked one after the other. Given rows come first."""

    order: Tensor
    """(k,) the rows in the order taken."""
    gains: Tensor
    """(k,) the value of each row when it was taken. The engine defines the unit."""

    @classmethod
    def of(cls, rows: list[int], gains: list[float], device: torch.device) -> Picks:
        """Make tensors of these numbers on a device."""
        return cls(
            torch.tensor(rows, dtype=torch.int64, device=device),
            torch.tensor(gains, dtype=torch.float64, device=device),
        )


def numbers(rows: Tensor | None) -> list[int]:
    """Row numbers as integers."""
    return [] if rows is None else cast("list[int]", rows.tolist())  # pyright: ignore[reportUnknownMemberType]


def reals(values: Tensor) -> list[float]:
    """Values as numbers."""
    return cast("list[float]", values.tolist())  # pyright: ignore[reportUnknownMemberType]
