"""DivPrune equals a float64 brute force, order and gains included, whatever the rows; its greedy is max-min."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import brute
import cases
import greedyprune as gp
from greedyprune.ops import farthest, nearest
from greedyprune.ops.cosine import UnitRows

METHOD = gp.DivPrune()


def by_the_book(x: Tensor, k: int, guard: list[int]) -> tuple[list[int], list[float]]:
    """Farthest-first in plain loops: order, and each row's distance when it was taken."""
    gram = brute.cosines(x)
    n = len(gram)

    def nearest(i: int, rows: list[int]) -> float:
        return max((min(1.0, max(-1.0, gram[i][j])) for j in rows if j != i), default=-1.0)

    def first_of(rows: list[int], among: list[int] | None) -> int:
        values = {i: nearest(i, list(range(n)) if among is None else among) for i in rows}
        return min(i for i in rows if values[i] <= min(values.values()) + brute.SLACK)

    start = guard[0] if guard else first_of(list(range(n)), None)
    order, gains = [start], [1 - nearest(start, list(range(n)))]
    for row in guard[1:]:
        gains.append(1 - nearest(row, order))
        order.append(row)
    while len(order) < k:
        row = first_of([i for i in range(n) if i not in order], order)
        gains.append(1 - nearest(row, order))
        order.append(row)
    return order, gains


def equal_the_book(x: Tensor, k: int, guard: list[int]) -> None:
    protect = torch.tensor(guard) if guard else None
    keep = gp.select(METHOD, gp.Cues(x, protect=protect), k)
    order, gains = by_the_book(x, k, guard)
    assert keep.order.tolist() == order
    torch.testing.assert_close(keep.gains.double(), torch.tensor(gains).double(), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=200)  # in three precisions each; the first call of linear algebra loads it
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(cases.KINDS),
    n=st.integers(1, 20),
    d=st.sampled_from([1, 2, 3, 16, 64]),
    data=st.data(),
)
def test_the_order_is_that_of_a_float64_brute_force(seed, kind, n, d, data) -> None:
    x, _ = cases.draw(kind, n, d, seed)
    k = data.draw(st.integers(1, n))
    guard = sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=min(k, 3))))
    equal_the_book(x, k, guard)
    equal_the_book(x.double(), k, guard)
    equal_the_book(x.clamp(-1e4, 1e4).bfloat16(), k, guard)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("guard", [[], [3, 40]], ids=str)
def test_the_sizes_of_pools_and_blocks_change_nothing(kind, guard, monkeypatch) -> None:
    x, _ = cases.draw(kind, 60, 8, 3)
    for size in (1, 3, 7):
        for module, name in ((farthest, "NEAR"), (farthest, "BLOCK"), (nearest, "LEAST"), (nearest, "MOST")):
            monkeypatch.setattr(module, name, size)
        monkeypatch.setattr(nearest, "WHOLE", 0)
        equal_the_book(x, 21, guard)
        equal_the_book(x, 60, guard)


def test_differences_that_float32_cannot_see_decide() -> None:
    # Row 2 is farther from row 0 than row 1 by 1e-9 in cosine, far below what float32 resolves near 1/2.
    angle = torch.tensor([0.0, 1.0, -1.0 - 1e-9, 0.02], dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin()], 1)
    assert gp.select(METHOD, gp.Cues(x, protect=torch.tensor([0])), 2).order.tolist() == [0, 2]
    assert gp.select(METHOD, gp.Cues(x.flip(0), protect=torch.tensor([3])), 2).order.tolist() == [3, 1]
    # The first pick: rows 0 and 1 have equally near neighbours but for 1e-9.
    angle = torch.tensor([0.0, 1.0, 2.0 + 1e-9, 2.0 + 1e-9 + 1.0], dtype=torch.float64)
    pairs = torch.stack([angle.cos(), angle.sin()], 1)
    assert gp.select(METHOD, gp.Cues(pairs), 1).order.tolist() == by_the_book(pairs, 1, [])[0]


def test_ties_go_to_the_lowest_row() -> None:
    assert gp.select(METHOD, gp.Cues(torch.eye(5)), 5).order.tolist() == [0, 1, 2, 3, 4]
    assert gp.select(METHOD, gp.Cues(torch.ones(7, 3)), 6).order.tolist() == [0, 1, 2, 3, 4, 5]
    assert gp.select(METHOD, gp.Cues(torch.zeros(4, 3)), 3).order.tolist() == [0, 1, 2]


def test_duplicates_come_last() -> None:
    x = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    keep = gp.select(METHOD, gp.Cues(torch.cat([x, x])), 20)
    assert sorted(row % 10 for row in keep.order[:10].tolist()) == list(range(10))
    torch.testing.assert_close(keep.gains[10:].float(), torch.zeros(10), rtol=0, atol=1e-5)


def test_one_row_stands_alone_and_budgets_are_prefixes() -> None:
    keep = gp.select(METHOD, gp.Cues(torch.ones(1, 3)), 1)
    assert (keep.order.tolist(), keep.gains.tolist()) == ([0], [2.0])
    x, _ = cases.draw("clustered", 30, 8, 5)
    whole = gp.select(METHOD, gp.Cues(x), 30)
    assert sorted(whole.order.tolist()) == list(range(30))
    for k in (1, 7, 29):
        assert gp.select(METHOD, gp.Cues(x), k).order.tolist() == whole.order[:k].tolist()
    assert gp.select(METHOD, gp.Cues(x), 99).k == 30
    assert bool((whole.gains[1:].diff() <= 1e-6).all())  # nobody taken later was farther


@given(seed=st.integers(0, 2000), k=st.integers(2, 4))
def test_the_closest_pair_is_at_least_half_as_far_as_it_could_be(seed, k) -> None:
    # Gonzalez' bound holds for metrics: the angle is one, and it orders pairs as the cosine distance does.
    x, _ = cases.draw("iid", 9, 4, seed)
    angles = torch.tensor(brute.cosines(x)).clamp(-1, 1).acos()

    def closest(rows: tuple[int, ...]) -> float:
        return min(float(angles[i, j]) for i, j in itertools.combinations(rows, 2))

    best = max(closest(rows) for rows in itertools.combinations(range(9), k))
    assert closest(tuple(gp.select(METHOD, gp.Cues(x), k).rows.tolist())) >= best / 2 - 1e-6


@given(seed=st.integers(0, 5000), k=st.integers(1, 24))
def test_permuting_the_rows_permutes_what_follows_the_first_pick(seed, k) -> None:
    x, _ = cases.draw("iid", 24, 8, seed)
    permute = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    first = torch.tensor([seed % 24])
    plain = gp.select(METHOD, gp.Cues(x, protect=first), k).order
    moved = gp.Cues(x[permute], protect=(permute == first).nonzero()[:, 0])
    assert permute[gp.select(METHOD, moved, k).order].tolist() == plain.tolist()


def test_the_first_of_two_equally_isolated_rows_is_the_lower_one() -> None:
    angle = torch.tensor([0.0, 0.1, 0.2, 2.0, 2.5])  # rows 3 and 4 are each other's nearest
    x = torch.stack([angle.cos(), angle.sin()], 1)
    assert gp.select(METHOD, gp.Cues(x), 1).order.tolist() == [3]
    assert gp.select(METHOD, gp.Cues(x.flip(0)), 1).order.tolist() == [0]


def test_the_engine_shares_unit_rows_and_stays_on_its_device() -> None:
    x, _ = cases.draw("offset", 40, 8, 2)
    unit = UnitRows(x)
    found = farthest.farthest_first(unit, 9)
    assert found.order.tolist() == farthest.farthest_first(x, 9).order.tolist()
    assert found.order.dtype == torch.int64
    assert found.order.device == x.device
