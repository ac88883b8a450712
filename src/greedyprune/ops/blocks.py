"""Large matrices in blocks of rows, so that only one block exists at a time."""

from __future__ import annotations

from torch import Tensor

ENTRIES = 2**22
"""The largest number of matrix entries that exist at once."""


def in_blocks(rows: Tensor, width: int) -> list[Tensor]:
    """Split row numbers into blocks of at most `ENTRIES` entries with `width` columns. No rows give one empty block."""
    size = max(1, ENTRIES // max(width, 1))
    return [rows[start : start + size] for start in range(0, max(rows.shape[0], 1), size)]
