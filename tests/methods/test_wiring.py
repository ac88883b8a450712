"""MMR, ZSPAPrune, ToDRE and facility location as methods: what they hand to their engines, by plain float64 loops."""

from __future__ import annotations

import pytest
import torch

import cases
import greedyprune as gp
from books import cosines, covering, first


def drawn(kind: str, seed: int) -> gp.Cues:
    x, _ = cases.draw(kind, 14, 9, seed)
    return cases.cues(x, torch.randn(5, 9, generator=torch.Generator().manual_seed(seed)), seed)


def mmr(cues: gp.Cues, k: int) -> list[int]:
    gram = cosines(cues.features, cues.features)
    worth = [row[0] for row in cosines(cues.features, cues.text[-1:])]  # type: ignore[index]
    scaled = [(w - min(worth)) / (max(worth) - min(worth)) for w in worth]
    order: list[int] = []
    while len(order) < k:
        left = [i for i in range(cues.n) if i not in order]
        order.append(first({i: scaled[i] / 2 - max((gram[i][j] for j in order), default=0.0) / 2 for i in left}))
    return order


def zspaprune(cues: gp.Cues, k: int) -> list[int]:
    assert cues.text is not None
    gram = cosines(cues.features, cues.features)
    worth = [row[0] for row in cosines(cues.features, cues.text.double().mean(0).float()[None])]
    order: list[int] = []
    while len(order) < k:
        left = [i for i in range(cues.n) if i not in order]
        core = len(order) < max(int(k / 2 + 0.5), 1)
        order.append(first({i: worth[i] if core else -max(gram[i][j] for j in order) for i in left}))
    return order


def todre(cues: gp.Cues, k: int) -> list[int]:
    assert cues.attention is not None
    gram = cosines(cues.features, cues.features)
    order = [first(dict(enumerate(cues.attention.double().tolist())))]
    while len(order) < k:
        order.append(first({i: -sum(gram[i][j] for j in order) for i in range(cues.n) if i not in order}))
    return order


def facility(cues: gp.Cues, k: int) -> list[int]:
    return covering(cosines(cues.features, cues.features), [1.0] * cues.n, [1.0] * cues.n, k)


@pytest.mark.parametrize("book", [mmr, zspaprune, todre, facility], ids=lambda book: book.__name__)
@pytest.mark.parametrize("kind", ["iid", "offset", "clustered"])
def test_a_method_is_its_equation(book, kind: str) -> None:
    for seed in range(20):
        cues = drawn(kind, seed)
        for k in (1, 4, 9):
            assert gp.select(book.__name__, cues, k).order.tolist() == book(cues, k), (seed, k)
