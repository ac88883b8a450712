"""Plain float64 loops, random problems and fixed examples for tests of methods against their equations.

The references share no code with the library. Conventions that both follow: float64 values within 1e-12 (brute.SLACK)
are ties, ties go to the lowest index, shares of a budget are rounded to 12 digits before they are compared, eigenvalues
below 1e-12 of the largest are none, and a row that lies on two components within 1e-9 belongs to the first.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from hypothesis import strategies as st
from torch import Tensor

import brute
import cases
import greedyprune as gp
from greedyprune.cues import Attention
from greedyprune.tiles import Tiles

Rows = list[list[float]]


SLACK = brute.SLACK


KINDS = st.sampled_from(cases.KINDS)


SEEDS = st.integers(0, 10_000)


def lists(x: Tensor) -> Rows:
    return x.double().tolist()


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def unit(row: list[float]) -> list[float]:
    largest = max(map(abs, row))
    if largest == 0:
        return row
    row = [value / largest for value in row]
    length = math.sqrt(dot(row, row))
    return [value / length for value in row]


def gram(rows: Rows) -> Rows:
    units = [unit(row) for row in rows]
    return [[min(1.0, max(-1.0, dot(a, b))) for b in units] for a in units]


def best(values: list[float]) -> list[int]:
    """Places by plain value, the highest first: cues are compared as they are."""
    return sorted(range(len(values)), key=lambda i: -values[i])


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def parts_of(scores: list[float]) -> list[float]:
    total = math.fsum(max(0.0, s) for s in scores)
    return [round(max(0.0, s) / total, 12) if total else 0.0 for s in scores]


def quota(total: int, shares: list[float], room: list[int], least: int = 0) -> list[int]:
    """Largest remainder: whole numbers first, then one each by the largest fraction; full parts pass on their rest."""
    parts = [0] * len(shares)
    for _, i in product(range(least), range(len(shares))):
        if parts[i] < room[i] and sum(parts) < total:
            parts[i] += 1
    while (left := total - sum(parts)) > 0:
        open_ = [i for i in range(len(parts)) if parts[i] < room[i]]
        weight = sum(shares[i] for i in open_)
        exact = [left * shares[i] / weight if weight else left / len(open_) for i in open_]
        overfull = False
        for i, value in zip(open_, exact, strict=True):
            overfull |= parts[i] + math.floor(value) > room[i]
            parts[i] = min(room[i], parts[i] + math.floor(value))
        if not overfull:
            for _, i in sorted((math.floor(value) - value, i) for i, value in zip(open_, exact, strict=True)):
                if parts[i] < room[i] and sum(parts) < total:
                    parts[i] += 1
    return parts


def of_groups(ranking: list[int], group: list[int], budgets: list[int]) -> list[int]:
    return [i for g, budget in enumerate(budgets) for i in [i for i in ranking if group[i] == g][:budget]]


def jacobi(matrix: Rows) -> tuple[list[float], Rows]:
    """Eigenvalues from the highest down, and the eigenvectors as rows, by plane rotations."""
    n = len(matrix)
    a, v = [row[:] for row in matrix], [[float(i == j) for j in range(n)] for i in range(n)]
    for _ in range(60):
        if math.fsum(a[i][j] ** 2 for i in range(n) for j in range(i)) <= 1e-34 * max(a[i][i] ** 2 for i in range(n)):
            break
        for p, q in ((i, j) for i, j in product(range(n), range(n)) if i < j and a[i][j] != 0):
            theta = (a[q][q] - a[p][p]) / (2 * a[p][q])
            t = math.copysign(1, theta) / (abs(theta) + math.hypot(theta, 1))
            c = 1 / math.hypot(t, 1)
            s = t * c
            for row in (*a, *v):
                row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
            a[p], a[q] = (
                [c * x - s * y for x, y in zip(a[p], a[q], strict=True)],
                [s * x + c * y for x, y in zip(a[p], a[q], strict=True)],
            )
    order = sorted(range(n), key=lambda i: -a[i][i])
    return [a[i][i] for i in order], [[v[j][i] for j in range(n)] for i in order]


@st.composite
def problems(draw, sizes=range(1, 19)):
    """Rows of any kind, attention with ties, a budget, protected tokens. -> x, attention, another, k, protect"""
    seed, kind, n = draw(SEEDS), draw(KINDS), draw(st.sampled_from(sizes))
    x, _ = cases.draw(kind, n, draw(st.sampled_from([1, 3, 8])), seed)
    g = torch.Generator().manual_seed(seed)
    look, other = (torch.randint(0, draw(st.sampled_from([2, 9, 1000])), (n,), generator=g) / 8 for _ in range(2))
    k = draw(st.integers(1, n))
    guard = sorted(draw(st.sets(st.integers(0, n - 1), max_size=min(k, 3))))
    return x, look, other, k, guard


def grids(n: int) -> st.SearchStrategy[tuple[int, int, int]]:
    return st.sampled_from([(t, h, n // t // h) for t in range(1, n + 1) for h in range(1, n + 1) if n % (t * h) == 0])


def kept(method, x: Tensor, k: int, guard: list[int], **more) -> gp.Keep:
    protect = torch.tensor(guard) if guard else None
    return gp.select(method, gp.Cues(x, protect=protect, **more), k)


def both(method, x: Tensor, k: int, guard: list[int], expected, **more) -> None:
    """The reference's order, from these rows, from the same in float64, and from rows of half precision."""
    for rows in (x, x.double(), x.clamp(-1e4, 1e4).bfloat16()):
        assert kept(method, rows, k, guard, **more).order.tolist() == expected(lists(rows))


WAVES = torch.tensor(
    [[math.sin(1.3 * i * (j + 1) + 0.4 * j * j) + (i % 5 == j) for j in range(5)] for i in range(24)],
    dtype=torch.float64,
)


LOOK = torch.tensor([(7 * i % 24 + 1) / 300 for i in range(24)], dtype=torch.float64)


FIRST = torch.tensor([(11 * i % 24 + 1) / 300 for i in range(24)], dtype=torch.float64)


VIEWS = Tiles(torch.tensor([-1] * 8 + [0] * 4 + [1] * 4 + [0] * 2 + [1] * 6), (1, 2), (2, 4))


TWO_LAYERS = {Attention("received", layer=2): FIRST, Attention("received"): LOOK}


def follows(method, k: int, more: dict, order: list[int]) -> None:
    """Hold a method to the order that it takes of the fixed example."""
    cues = {"attention": LOOK, **more}
    assert gp.select(method, gp.Cues(WAVES, **cues), k).order.tolist() == order
    assert gp.select(method, gp.Cues(WAVES.float(), **cues), k).order.tolist() == order
