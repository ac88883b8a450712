"""A fixed example, random cues and plain loops for tests of methods against their equations."""

from __future__ import annotations

from fractions import Fraction

import torch
from hypothesis import settings
from torch import Tensor

import brute
import cases
import greedyprune as gp
from greedyprune.cues import Keys

book = settings(max_examples=200, deadline=None)


def formula(n: int, d: int, salt: int) -> Tensor:
    """Rows without any generator: whole numbers from -18 to 18, the same everywhere. -> (n, d)"""
    i, j = torch.arange(n)[:, None], torch.arange(d)[None]
    return ((((i + 3) * (7 * j + salt) ** 2 + 5 * i * i * (j + 1)) % 37) - 18).float()


def example(n: int = 32, d: int = 6) -> gp.Cues:
    attention = ((torch.arange(n) * 37 + 11) % 101).float() / 1024  # distinct
    keys, words = formula(n, 8, 3).view(n, 2, 4), formula(5, 8, 4).view(5, 2, 4)
    norm = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.25, 1.5])
    more = {Keys("decoder", of="text"): words}
    return gp.Cues(formula(n, d, 1), text=formula(5, d, 2), attention=attention, keys=keys, norm=norm, more=more)


def drawn(seed: int, kind: str, n: int, attention: Tensor | None = None) -> gp.Cues:
    x, t = cases.draw(kind, n, 6, seed)
    keys, _ = cases.draw(kind, n, 8, seed + 1)
    given = {} if attention is None else {"attention": attention}
    return cases.cues(x, torch.stack([t, -t, x[0]]), seed, keys=keys.view(n, 2, 4), **given)


def by_worth(worth: list[float]) -> list[int]:
    return sorted(range(len(worth)), key=lambda i: -worth[i])


def top_split(k: int, share: Fraction) -> int:
    """The second part of k by largest remainder, ties to the first."""
    exact = k * share
    rest = exact - int(exact)
    return int(exact) + (rest > Fraction(1, 2))


def cosine(a: Tensor, b: Tensor) -> float:
    return float((brute.unit(a) * brute.unit(b)).sum())
