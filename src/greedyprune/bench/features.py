"""Features that look like those of images: smooth fields, segments, a common mean, noise. For speed, not accuracy."""

from __future__ import annotations

import torch
from torch import Tensor


def image_like(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Visual rows on 24 x 24 tiles (one square where n is a square), and a text row. -> (n, d), (d,)

    Neighbours are alike (cosine about 0.87), far tokens less so (median about 0.3), and saliency is smooth with a few
    high spots: the shape of real vision features, without their meaning.
    """
    generator = torch.Generator().manual_seed(seed)
    side = round(n**0.5)
    tiles = [side] if side * side == n else [24] * (n // 576)
    if sum(s * s for s in tiles) != n:
        raise ValueError(f"n={n}: image-like features need a square, or a multiple of 576 tokens.")
    basis = torch.randn(96, d, generator=generator) / d**0.5
    x = torch.cat([_tile(s, generator) for s in tiles]) @ basis
    x = x + 0.55 * torch.randn(d, generator=generator) / d**0.5 + 0.32 * torch.randn(n, d, generator=generator) / d**0.5
    spot = x[torch.randint(n, (1,), generator=generator)[0]]
    return x, spot + 0.5 * torch.randn(d, generator=generator) / d**0.5


def _tile(side: int, generator: torch.Generator) -> Tensor:
    """Coefficients of one square of tokens. -> (side^2, 96)"""
    fields = torch.zeros(1, 96, side, side)
    for cells, weight in ((3, 0.08), (6, 0.06), (12, 0.03)):
        coarse = torch.randn(1, 96, cells, cells, generator=generator)
        fields += weight * torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    segments = torch.randint(7, (1, 1, 6, 6), generator=generator).float()
    where = torch.nn.functional.interpolate(segments, size=(side, side), mode="nearest").long().flatten()
    looks = 0.05 * torch.randn(7, 96, generator=generator)
    return fields.flatten(2)[0].T + looks[where]
