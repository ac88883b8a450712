"""Features to test selections on: the kinds that break naive implementations, drawn from a seed."""

from __future__ import annotations

import torch
from torch import Tensor

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
