"""Matching, dropping duplicates and merging equal float64 references in plain loops, order included; merge weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import brute
import cases
from greedyprune.ops import blocks, matching
from greedyprune.ops.matching import least_similar, merge_most_similar, most_similar, nearest_others, thin
from greedyprune.ops.merging import alone, cluster_means, evenly, merged, normalised, weighted_sums
from greedyprune.ops.ranking import ranked

DRAWS = {
    "seed": st.integers(0, 10_000),
    "kind": st.sampled_from(cases.KINDS),
    "n": st.integers(1, 18),
    "d": st.sampled_from([1, 2, 3, 16]),
    "data": st.data(),
}
book = settings(max_examples=500, deadline=None)


def cosine(a: Tensor, b: Tensor) -> float:
    return min(1.0, max(-1.0, float((brute.unit(a) * brute.unit(b)).sum())))


def first_best(values: list[float]) -> int:
    return next(i for i, value in enumerate(values) if value >= max(values) - brute.SLACK)


# Matching -----------------------------------------------------------------------------------------------------------


@book
@given(**DRAWS)
def test_every_row_finds_its_most_similar_rows(seed, kind, n, d, data) -> None:
    x, _ = cases.draw(kind, n + 1, d, seed)
    cut = data.draw(st.integers(1, n))
    gram = brute.cosines(x)
    values, places = most_similar(x[:cut], x[cut:])
    expected = [first_best(gram[i][cut:]) for i in range(cut)]
    assert places.tolist() == expected
    best = torch.tensor([gram[i][cut + j] for i, j in enumerate(expected)], dtype=torch.float64)
    torch.testing.assert_close(values, best, rtol=0, atol=1e-12)
    count = data.draw(st.integers(1, n))
    for i, found in enumerate(nearest_others(x, torch.arange(cut), count).tolist()):
        others = [j for j in range(n + 1) if j != i]
        assert found == [others[place] for place in brute.ranking_of([gram[i][j] for j in others])[:count]]


@book
@given(**DRAWS)
def test_each_pivot_takes_what_resembles_it_least(seed, kind, n, d, data) -> None:
    x, t = cases.draw(kind, n, d, seed)
    taken = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n))
    pivots = torch.cat([x[: data.draw(st.integers(0, min(n, 3)))], t[None]])
    quotas, left = [], n - len(taken)
    for _ in pivots:
        quotas.append(data.draw(st.integers(0, left)))
        left -= quotas[-1]
    rows, gains = least_similar(x, pivots, quotas, torch.tensor(taken, dtype=torch.int64))
    expected: list[int] = []
    worth: list[float] = []
    for pivot, quota in zip(pivots, quotas, strict=True):
        free = [i for i in range(n) if i not in taken and i not in expected]
        far = [1 - cosine(pivot, x[i]) for i in free]
        chosen = brute.ranking_of(far)[:quota]
        expected += [free[i] for i in chosen]
        worth += [far[i] for i in chosen]
    assert rows.tolist() == expected
    torch.testing.assert_close(gains, torch.tensor(worth, dtype=torch.float64), rtol=0, atol=1e-12)


# Dropping duplicates ------------------------------------------------------------------------------------------------


def thin_by_the_book(x: Tensor, order: list[int], keep: int, drop: int, mixed: bool = False) -> list[int]:
    gram = brute.cosines(x)
    left = list(order)
    while len(left) > keep > 0:
        even, odd = left[::2], left[1::2]
        redundant = [max(gram[i][j] for j in odd) for i in even]
        worst_first = [even[::-1][place] for place in brute.ranking_of(redundant[::-1])]
        number = min(drop, len(left) - keep)
        left = worst_first[number:] + odd if mixed else [i for i in left if i not in worst_first[:number]]
    return [i for i in order if i in left] if keep else []


@book
@given(drop=st.integers(1, 8), mixed=st.booleans(), **DRAWS)
def test_duplicates_leave_as_in_the_book(seed, kind, n, d, data, drop, mixed) -> None:
    x, _ = cases.draw(kind, n, d, seed)
    order = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    keep = data.draw(st.integers(0, len(order)))
    expected = thin_by_the_book(x, order, keep, drop, mixed)
    assert thin(x, torch.tensor(order), keep, drop, mixed=mixed).tolist() == expected


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("listed", [1, 3, 12])
@pytest.mark.parametrize("drop", [1, 5])
@pytest.mark.parametrize("mixed", [False, True])
def test_short_lists_and_blocks_change_nothing(kind, listed, drop, mixed, monkeypatch) -> None:
    x, _ = cases.draw(kind, 60, 6, 4)
    monkeypatch.setattr(matching, "LISTED", listed)
    monkeypatch.setattr(blocks, "ENTRIES", 200)
    expected = thin_by_the_book(x, list(range(60)), 5, drop, mixed)
    assert thin(x, torch.arange(60), 5, drop, mixed=mixed).tolist() == expected


def test_of_duplicates_one_of_each_is_left() -> None:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 0)
    assert sorted(row // 2 for row in thin(x, torch.arange(16), 8, 8).tolist()) == list(range(8))
    # All alike: of equally redundant rows the later ones go, even places only.
    assert thin(torch.ones(6, 2), torch.arange(6), 4, 2).tolist() == [0, 1, 3, 5]


# Merging ------------------------------------------------------------------------------------------------------------


def merge_by_the_book(x: Tensor, k: int) -> list[list[int]]:
    """Clusters, each with the row that stands for it first, in the order of those."""
    groups = [[i] for i in range(x.shape[0])]
    while len(groups) > k:
        means = [x[sorted(group)].double().sum(0) / len(group) for group in groups]
        even, odd = range(0, len(groups), 2), range(1, len(groups), 2)
        similar = [[cosine(means[i], means[j]) for j in odd] for i in even]
        partner = [first_best(row) for row in similar]
        best = brute.ranking_of([row[j] for row, j in zip(similar, partner, strict=True)])
        gone = best[: min(len(groups) // 2, len(groups) - k)]
        for place in gone:
            groups[2 * partner[place] + 1] = groups[2 * partner[place] + 1] + groups[2 * place]
        groups = [group for i, group in enumerate(groups) if i % 2 or i // 2 not in gone]
    return groups


@book
@given(**DRAWS)
def test_the_most_similar_merge_as_in_the_book(seed, kind, n, d, data) -> None:
    x, _ = cases.draw(kind, n, d, seed)
    k = data.draw(st.integers(1, n))
    found = merge_most_similar(x, k)
    groups = merge_by_the_book(x, k)
    assert found.rows.tolist() == [group[0] for group in groups] == sorted(found.rows.tolist())
    assert [found.of.tolist()[i] for group in groups for i in group] == [
        g for g, group in enumerate(groups) for _ in group
    ]


def test_blocks_change_no_match(monkeypatch) -> None:
    x, _ = cases.draw("clustered", 50, 6, 1)
    monkeypatch.setattr(blocks, "ENTRIES", 70)
    groups = merge_by_the_book(x, 7)
    assert merge_most_similar(x, 7).rows.tolist() == [group[0] for group in groups]


def test_weights_are_what_they_say() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(alone(torch.tensor([4, 1]), 6) @ x, x[[4, 1]])
    means = cluster_means(torch.tensor([0, -1, 2, 0, 2, 2]), 4)
    assert means[1].tolist() == means[3].tolist() == [0.0] * 6
    torch.testing.assert_close(means[[0, 2]] @ x, torch.stack([x[[0, 3]].mean(0), x[[2, 4, 5]].mean(0)]))
    worth = torch.tensor([0.5, 1.0, 0.25, 2.0, 0.0, 4.0])
    sums = weighted_sums(torch.tensor([[1, 3], [0, 4]]), worth)
    assert sums.tolist() == [[0, 1, 0, 2, 0, 0], [0.5, 0, 0, 0, 0, 0]]
    assert normalised(torch.cat([sums, 0 * sums[:1]])).sum(1).tolist() == [1, 1, 0]
    assert evenly(torch.arange(10, 22), 4).tolist() == [10, 13, 16, 19]
    assert evenly(torch.arange(5), 5).tolist() == [0, 1, 2, 3, 4]
    assert evenly(torch.arange(0), 0).tolist() == []
    keep = merged(torch.tensor([4, 0, 2]), torch.ones(3), alone(torch.tensor([4, 0, 2]), 6))
    assert (keep.rows.tolist(), keep.order.tolist()) == ([0, 2, 4], [4, 0, 2])
    assert torch.equal(keep.merge(x), x[[0, 2, 4]])


def test_ranking_puts_ties_in_order_whatever_their_size() -> None:
    inf = float("inf")
    assert ranked(torch.tensor([1.0, 3.0, 1.0 + 1e-14, -inf, 3.0, -inf])).tolist() == [1, 4, 0, 2, 3, 5]
    assert ranked(torch.tensor([1e20, 1e20 * (1 + 1e-13), -1e20], dtype=torch.float64)).tolist() == [0, 1, 2]
    assert ranked(torch.tensor([[1.0, 2.0], [2.0, 1.0]])).tolist() == [[1, 0], [0, 1]]


@pytest.mark.wide  # 20,000 rows
def test_many_rows_need_no_matrix() -> None:
    x, _ = cases.draw("clustered", 20_000, 4, 0)
    assert len(set(thin(x, torch.arange(20_000), 19_900, 8).tolist())) == 19_900
    found = merge_most_similar(x, 200)
    assert found.rows.shape == (200,)
    assert int(found.of.bincount(minlength=200).min()) >= 1


@given(seed=st.integers(0, 10_000), n=st.integers(1, 30))
def test_a_ranking_knows_ties_and_rows_of_a_matrix(seed, n) -> None:
    g = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, (3, n), generator=g).double() + 1e-13 * torch.rand(3, n, generator=g).double()
    assert [row.tolist() for row in ranked(values)] == [brute.ranking_of(row.tolist()) for row in values]
    assert ranked(values[0]).tolist() == brute.ranking_of(values[0].tolist())
