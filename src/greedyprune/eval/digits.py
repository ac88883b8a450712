"""Real handwriting: scikit-learn's digits, each on a black tile somewhere on a grey field. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greedyprune.eval.items import Item


@dataclass(frozen=True)
class Digits:
    """ "What digit is on the black tile ?", once for each of the digits numbered in `which` (of 1,797)."""

    which: Sequence[int]
    side: int = 168
    """Pixels of the image."""
    tile: int = 34
    """Pixels of the tile."""
    seed: int = 0
    """The seed of the places of the tiles."""

    def items(self) -> list[Item]:
        """One item per digit."""
        import numpy as np
        from PIL import Image
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        rng = np.random.default_rng(self.seed)
        items: list[Item] = []
        for number in self.which:
            ink = Image.fromarray((pixels[number].reshape(8, 8) / 16 * 255).astype(np.uint8))
            left, top = (int(edge) // 7 * 7 for edge in rng.integers(0, self.side - self.tile, 2))
            field = Image.new("RGB", (self.side, self.side), (128, 128, 128))
            field.paste((15, 15, 15), (left, top, left + self.tile, top + self.tile))
            inner = ink.resize((self.tile - 4, self.tile - 4), Image.Resampling.BICUBIC)
            field.paste((255, 255, 255), (left + 2, top + 2), inner)
            box = float(left), float(top), float(left + self.tile), float(top + self.tile)
            name, text = f"handwriting-{number}", "what digit is on the black tile ?"
            items.append(Item(name, "handwriting", field, name, text, (str(labels[number]),), (box,)))
        return items
