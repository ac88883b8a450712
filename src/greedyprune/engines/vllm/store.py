"""The worker's store of unpruned rows: a second question about an image does not run the vision tower again."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from greedyprune.cues import Seen

LARGEST = 64 * 2**20
"""The bytes of all rows that are stored: 13 images of LLaVA-1.5-7B."""


class Whole(NamedTuple):
    """An image before it is pruned."""

    rows: Tensor
    """(n, D) all rows that the encoder made of it."""
    seen: dict[Seen, Tensor]
    """(n, ...) what was read in the vision tower, for each need with the number of its layer."""

    @property
    def bytes(self) -> int:
        """The size of all its tensors."""
        return sum(each.numel() * each.element_size() for each in (self.rows, *self.seen.values()))


class Store:
    """The images that were used last, by vLLM's key of each image, within a number of bytes.

        store = Store(LARGEST, device)
        store["key"] = Whole(rows, {})
        store.get("key")

    Until rows come it holds as many bytes of the device, so that vLLM's measurement of its memory counts them.
    """

    def __init__(self, largest: int, device: torch.device | str) -> None:
        self.largest, self.bytes = largest, 0
        self._images: OrderedDict[str, Whole] = OrderedDict()
        self._reserve: Tensor | None = torch.empty(largest, dtype=torch.uint8, device=device)

    def get(self, key: str) -> Whole | None:
        """The image of this key, which is now the one used last; None if there is none."""
        image = self._images.get(key)
        if image is not None:
            self._images.move_to_end(key)
        return image

    def __setitem__(self, key: str, image: Whole) -> None:
        """Store a copy of an image in place of the one with its key, and forget those not used for the longest time."""
        if image.bytes > self.largest:
            return
        self._reserve = None
        if (old := self._images.pop(key, None)) is not None:
            self.bytes -= old.bytes
        while self.bytes + image.bytes > self.largest:
            self.bytes -= self._images.popitem(last=False)[1].bytes
        # Its tensors may be views of those of all images of a batch.
        copy = Whole(image.rows.clone(), {need: each.clone() for need, each in image.seen.items()})
        self._images[key] = copy
        self.bytes += copy.bytes

    def __len__(self) -> int:
        return len(self._images)
