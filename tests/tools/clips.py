"""Clips to draw, and plain float64 loops that tests of several video methods share: scenes and density peaks.

They share no code with the library; the conventions are those of `golden`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from hypothesis import strategies as st
from torch import Tensor

import brute
import cases
import greedyprune as gp
from golden import SLACK, Rows, dot, lists, mean, unit

GRIDS = ((1, 2, 3), (2, 2, 3), (3, 2, 2), (5, 1, 3), (9, 1, 2), (10, 2, 2), (4, 3, 3))


@st.composite
def clips(draw):
    """A clip with attention, and a budget. -> x (n, d), look (n,), (t, h, w), k"""
    seed, (t, h, w) = draw(st.integers(0, 10_000)), draw(st.sampled_from(GRIDS))
    kind, d = draw(st.sampled_from([*cases.KINDS, "still", "moving"])), draw(st.sampled_from([1, 3, 8]))
    g = torch.Generator().manual_seed(seed)
    n = t * h * w
    if kind in cases.KINDS:
        x, _ = cases.draw(kind, n, d, seed)
    else:  # scenes of frames that look alike; still ones are copies of each other
        places = torch.randn(t, h * w, d, generator=g)[(torch.arange(t) // 3) * 3]
        x = (places + 0.3 * (kind == "moving") * torch.randn(t, h * w, d, generator=g)).flatten(0, 1)
    look = torch.randint(1, draw(st.sampled_from([2, 9, 1000])), (n,), generator=g) / 8
    return x, look, (t, h, w), draw(st.integers(1, n))


def equal_parts(total: int, count: int) -> list[int]:
    """Equal whole numbers that sum up to a total; where the rounded sum steps up, a part is one larger."""
    return [b - a for a, b in pairwise(math.floor(i * total / count + 0.5) for i in range(count + 1))] if count else []


def scenes(x: Rows, frames: int, least: int, tau: float) -> list[range]:
    """The frames of every scene."""
    size = len(x) // frames
    means = [
        unit([mean(list(column)) for column in zip(*x[f * size : (f + 1) * size], strict=True)]) for f in range(frames)
    ]
    alike = [dot(a, b) for a, b in pairwise(means)]
    count = max(least - 1, sum(value < tau - SLACK for value in alike))
    starts = [0, *sorted(cut + 1 for cut in brute.ranking_of([-value for value in alike])[:count]), frames]
    return [range(start, end) for start, end in pairwise(starts)]


def peaks(rows: Rows, count: int, near: int) -> tuple[list[int], list[int]]:
    """Density peaks if a row is one of its own neighbours: the centres in order, and the centre that each row joins."""
    n, d = len(rows), len(rows[0])
    far = [[min(1e150, math.hypot(*(a - b for a, b in zip(p, q, strict=True))) / d**0.5) for q in rows] for p in rows]
    density = []  # its logarithm: densities themselves vanish
    for i in range(n):
        others = sorted(far[i][j] for j in range(n) if j != i)[: near - 1]
        density.append(-math.fsum(v * v for v in others) / max(len(others) + 1, 1))
    dense = ranked(density)
    score = []
    for i in range(n):
        denser = dense[: dense.index(i)]
        delta = min(far[i][j] for j in denser) if denser else max(map(max, far))
        score.append(density[i] + (math.log(delta) if delta > 0 else -math.inf))
    centres = ranked(score)[:count]
    of = []
    for i in range(n):
        best = min(far[i][c] for c in centres)
        of.append(i if i in centres else min(c for c in centres if far[i][c] <= best * (1 + SLACK)))
    return centres, of


def ranked(values: list[float]) -> list[int]:
    """From the highest down. Values that differ by rounding only, above 1 by that share of them, are one tie."""
    result: list[list[int]] = []
    for i in sorted(range(len(values)), key=lambda i: -values[i]):
        last = values[result[-1][-1]] if result else math.inf
        if result and (last == values[i] or last - values[i] <= SLACK * min(max(1, abs(values[i])), 1e300)):
            result[-1].append(i)
        else:
            result.append([i])
    return [i for tie in result for i in sorted(tie)]


def first_best(values: list[float]) -> int:
    """The first place of the largest value, ties by rounding included."""
    return min(i for i, value in enumerate(values) if value >= max(values) - SLACK)


Book = tuple[list[int], dict[int, dict[int, float]]]
"""The order of a selection, and for every kept row the weight of each row in it."""


def merges_as(method, x: Tensor, look: Tensor, grid, k: int, book) -> None:
    """Hold a selection to a book, from these rows, from the same in float64, and from rows of half precision."""
    for rows in (x, x.double(), x.clamp(-1e4, 1e4).bfloat16()):
        keep = gp.select(method, gp.Cues(rows, attention=look, grid=grid), k)
        order, parts = book(lists(rows))
        assert keep.order.tolist() == order
        if keep.weights is None:  # all tokens stay as they are
            assert keep.k == len(x)
            continue
        wanted = torch.zeros(len(order), len(x))
        for place, row in enumerate(sorted(order)):
            for i, weight in parts[row].items():
                wanted[place, i] = weight
        torch.testing.assert_close(keep.weights, wanted, rtol=1e-5, atol=1e-6)
