"""What a greedy engine found: rows in the order taken, and what each was worth when it was taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Picks:
    """Rows picked one after the other; given ones, taken beforehand, come first."""

    order: Tensor
    """(k,) the rows in the order taken."""
    gains: Tensor
    """(k,) what each was worth when it was taken; the engine says in which unit."""

    @classmethod
    def of(cls, rows: list[int], gains: list[float], device: torch.device) -> Picks:
        """From numbers."""
        return cls(
            torch.tensor(rows, dtype=torch.int64, device=device),
            torch.tensor(gains, dtype=torch.float64, device=device),
        )


def numbers(rows: Tensor | None) -> list[int]:
    """Row numbers as integers."""
    return [] if rows is None else cast("list[int]", rows.tolist())  # pyright: ignore[reportUnknownMemberType]
