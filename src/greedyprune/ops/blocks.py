"""Large matrices in blocks of rows, so that only one block exists at a time."""

from __future__ import annotations

from torch import Tensor

ENTRIES = 2**22
"""The largest number of matrix entries that exist at once."""
CACHED = 2**18
"""The number of float64 entries that stay in a processor's cache: 2 MiB."""


def in_blocks(rows: Tensor, width: int) -> list[Tensor]:
    """Split row numbers into blocks of at most `ENTRIES` entries with `width` columns. No rows give one empty block."""
    size = max(1, ENTRIES // max(width, 1))
    return [rows[start : start + size] for start in range(0, max(rows.shape[0], 1), size)]


def cached_blocks(rows: Tensor, width: int = 0) -> list[Tensor]:
    """Rows in blocks that stay in a processor's cache, on other devices in one. (..., n, d) -> (..., b, d)

    `width`: that of the rows they go with.
    """
    n = rows.shape[-2]
    size = max(1, CACHED // (width or rows.numel() // max(n, 1) or 1)) if rows.device.type == "cpu" else max(1, n)
    return [rows[..., start : start + size, :] for start in range(0, max(n, 1), size)]
