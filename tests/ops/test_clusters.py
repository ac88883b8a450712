"""Density-peak clustering equals a float64 reference in plain loops, whatever the rows: centres, order, members."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import cases
from greedyprune.ops import blocks
from greedyprune.ops.clusters import density_peaks

SLACK = 1e-12


def ranked(values: list[float]) -> list[int]:
    """From the highest down; a chain of values that differ by rounding only is one tie, ordered by index."""
    result: list[int] = []
    tie: list[int] = []
    for i in sorted(range(len(values)), key=lambda i: -values[i]):
        if (
            tie
            and values[tie[-1]] != values[i]
            and values[tie[-1]] - values[i] > SLACK * min(max(1, abs(values[i])), 1e300)
        ):
            result += sorted(tie)
            tie = []
        tie.append(i)
    return result + sorted(tie)


def by_the_book(x: Tensor, count: int, neighbours: int, itself: bool = False) -> tuple[list[int], list[int]]:
    """Centres in order and, for every row, which of them it belongs to."""
    rows = x.double().tolist()
    n, d = len(rows), len(rows[0])
    far = [[math.sqrt(sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / d) for q in rows] for p in rows]
    density = []  # its logarithm: densities themselves vanish
    for i in range(n):
        near = sorted(far[i][j] for j in range(n) if j != i)[: neighbours - itself]
        density.append(-sum(v**2 for v in near) / max(len(near) + itself, 1))
    dense = ranked(density)
    score = []
    for i in range(n):
        denser = dense[: dense.index(i)]
        delta = min(far[i][j] for j in denser) if denser else max(map(max, far)) if itself else max(far[i])
        score.append(density[i] + (math.log(delta) if delta > 0 else -math.inf))
    centres = ranked(score)[:count]
    of = []
    for i in range(n):
        best = min(far[i][c] for c in centres)
        near = [c for c in sorted(centres) if far[i][c] <= best * (1 + SLACK)]
        of.append(centres.index(i if i in centres else near[0]))
    return centres, of


def equal_the_book(x: Tensor, count: int, neighbours: int, itself: bool = False) -> None:
    found = density_peaks(x, count, neighbours, itself=itself)
    centres, of = by_the_book(x, count, neighbours, itself)
    assert found.centres.tolist() == centres
    assert found.of.tolist() == of


@settings(max_examples=500, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(cases.KINDS),
    n=st.integers(1, 18),
    d=st.sampled_from([1, 2, 3, 8]),
    neighbours=st.integers(1, 7),
    data=st.data(),
)
def test_clusters_are_those_of_the_book(seed, kind, n, d, neighbours, data) -> None:
    x, _ = cases.draw(kind, n, d, seed)
    count, itself = data.draw(st.integers(1, n)), data.draw(st.booleans())
    equal_the_book(x, count, neighbours, itself)
    equal_the_book(x.clamp(-1e4, 1e4).bfloat16(), count, neighbours, itself)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_blocks_change_nothing(kind, monkeypatch) -> None:
    x, _ = cases.draw(kind, 40, 5, 3)
    monkeypatch.setattr(blocks, "ENTRIES", 130)  # three rows at a time
    equal_the_book(x, 9, 5)


def test_centres_have_the_largest_density_times_distance() -> None:
    # The formula itself, without logarithms: two heaps and one row far out.
    x = torch.tensor([[0.0], [0.1], [0.2], [3.0], [3.1], [3.3], [9.0]], dtype=torch.float64)
    far = (x - x.T).abs()
    rho = (-far.sort().values[:, 1:3].square().mean(1)).exp()
    delta = torch.tensor(
        [float(far[i][rho > rho[i]].min()) if bool((rho > rho[i]).any()) else float(far[i].max()) for i in range(7)]
    )
    found = density_peaks(x, 2, 2)
    assert found.centres.tolist() == (rho * delta).sort(descending=True).indices[:2].tolist() == [1, 4]
    assert found.of.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_heaps_are_found_and_no_cluster_is_empty() -> None:
    g = torch.Generator().manual_seed(0)
    heaps = torch.randn(4, 16, generator=g) * 10
    member = torch.arange(80) % 4
    found = density_peaks(heaps[member] + torch.randn(80, 16, generator=g), 4, 5)
    assert len({(int(a), int(b)) for a, b in zip(member, found.of, strict=True)}) == 4  # one cluster each
    same = density_peaks(torch.ones(6, 3), 4, 5)
    assert (same.centres.tolist(), same.of.tolist()) == ([0, 1, 2, 3], [0, 1, 2, 3, 0, 0])
    far = density_peaks(torch.tensor([[0.0], [1e200], [1.0]], dtype=torch.float64), 3, 2)
    assert sorted(far.centres.tolist()) == [0, 1, 2]


@settings(deadline=None)
@given(seed=st.integers(0, 5000), count=st.integers(1, 20))
def test_permuting_the_rows_permutes_the_clusters(seed, count) -> None:
    x, _ = cases.draw("iid", 20, 6, seed)
    permute = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    plain, moved = density_peaks(x, count, 5), density_peaks(x[permute], count, 5)
    assert permute[moved.centres].tolist() == plain.centres.tolist()
    assert moved.of.tolist() == plain.of[permute].tolist()


def test_many_rows_need_no_matrix() -> None:
    x, _ = cases.draw("clustered", 6_000, 4, 0)
    found = density_peaks(x, 50, 5)
    assert len(set(found.centres.tolist())) == 50
    assert set(found.of.tolist()) == set(range(50))
