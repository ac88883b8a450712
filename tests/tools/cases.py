"""Encoded to test selections on: the kinds that break naive implementations, drawn from a seed."""

from __future__ import annotations

import torch
from torch import Tensor

from greedyprune.cues import Change, Cues, Keys

KINDS = (
    "iid",
    "offset",
    "clustered",
    "duplicates",
    "scaled duplicates",
    "tied saliency",
    "zero rows",
    "integers",
    "extreme",
)
POOLS = ("LEAST", "MOST", "WHOLE")
"""The sizes of pools in `ops/nearest.py`."""
SIZES = [(1, 1, 0), (3, 3, 0), (96, 256, 1024)]
"""A pool of one row, of three, and of all."""


def draw(kind: str, n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Visual rows and a text row. -> (n, d), (d,)"""
    g = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    x, t = noise(n, d), noise(d)
    pick = torch.randint(max(1, n // 3), (n,), generator=g)
    if kind == "offset":
        x = x + 2 * noise(d)  # anisotropic states: all cosines large
    elif kind == "clustered":
        x = noise(n, d)[pick] + 0.05 * x
    elif kind == "duplicates":
        x = x[pick]
    elif kind == "scaled duplicates":
        x = x[pick] * 2.0 ** torch.randint(-3, 4, (n, 1), generator=g)
    elif kind == "tied saliency":
        x[:, d // 2 :] = x[:, d // 2 :].abs().round()
        x[:, : d // 2] = 1.0
        t = torch.cat([torch.ones(d // 2), torch.zeros(d - d // 2)])
    elif kind == "zero rows":
        x[pick] = 0
    elif kind == "integers":
        x = x.round()
        t = t.round()
    elif kind == "extreme":
        x = x * 10.0 ** torch.randint(-30, 31, (n, 1), generator=g)
    return x, t


def cues(x: Tensor, text: Tensor, seed: int = 0, permute: Tensor | None = None, **more: object) -> Cues:
    """Everything a method may ask for, beside these rows; cues of the tokens are permuted alike. (n, d), (m, d)"""
    g = torch.Generator().manual_seed(seed + 2)
    n = x.shape[0]
    attention, keys = torch.rand(n, generator=g), torch.randn(n, 2, 4, generator=g)
    encoded = torch.randn(n, 6, generator=g)
    words = torch.randn(text.shape[0], 2, 4, generator=g)
    norm, change = torch.rand(x.shape[1], generator=g), torch.randn(n, x.shape[1], generator=g)
    if permute is not None:
        x, attention, keys, encoded, change = (each[permute] for each in (x, attention, keys, encoded, change))
    given = {
        "question": slice(text.shape[0] // 2, text.shape[0]),
        "grid": (1, 1, n),
        "attention": attention.to(x.dtype),
        "keys": keys.to(x.dtype),
        "encoded": encoded.to(x.dtype),
        "norm": norm.to(x.dtype) + 0.5,
        "more": {Keys("decoder", of="text"): words.to(x.dtype), Change(): change.to(x.dtype)},
    }
    return Cues(x, text=text, **{**given, **more})  # type: ignore[arg-type]
