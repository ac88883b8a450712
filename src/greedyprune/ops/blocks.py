"""Large matrices in blocks of rows, so that only a part of one exists at a time."""

from __future__ import annotations

from torch import Tensor

ENTRIES = 2**22
"""How many entries of a matrix exist at once."""


def in_blocks(rows: Tensor, width: int) -> list[Tensor]:
    """Row numbers in blocks that make at most `ENTRIES` entries with `width` columns; one empty block of no rows."""
    size = max(1, ENTRIES // max(width, 1))
    return [rows[start : start + size] for start in range(0, max(rows.shape[0], 1), size)]
