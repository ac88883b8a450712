"""The worker's store of unpruned rows: a second question about an image does not run the vision tower again."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 64 * 2**20
"""The bytes of all rows that are stored: 13 images of LLaVA-1.5-7B."""


class Store:
    """The rows of the images that were used last, by vLLM's key of each image, within a number of bytes.

        store = Store(LARGEST, device)
        store["key"] = rows
        store.get("key")

    Until rows come it holds as many bytes of the device, so that vLLM's measurement of its memory counts them.
    """

    def __init__(self, largest: int, device: torch.device | str) -> None:
        self.largest, self.bytes = largest, 0
        self._rows: OrderedDict[str, Tensor] = OrderedDict()
        self._reserve: Tensor | None = torch.empty(largest, dtype=torch.uint8, device=device)

    def get(self, key: str) -> Tensor | None:
        """The rows of this key, which are now those used last; None if there are none."""
        rows = self._rows.get(key)
        if rows is not None:
            self._rows.move_to_end(key)
        return rows

    def __setitem__(self, key: str, rows: Tensor) -> None:
        """Store a copy of an image's rows, and forget those that were not used for the longest time. (n, D)"""
        size = rows.numel() * rows.element_size()
        if size > self.largest or key in self._rows:
            return
        self._reserve = None
        while self.bytes + size > self.largest:
            _, old = self._rows.popitem(last=False)
            self.bytes -= old.numel() * old.element_size()
        self._rows[key] = rows.clone()  # rows may be a view of those of all images of a batch
        self.bytes += size

    def __len__(self) -> int:
        return len(self._rows)
