"""ToMe and DART: golden traces, float64 references, properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import brute
import cases
import greedyprune as gp
from examples import book, cosine, drawn, example
from greedyprune.cues import Attention, Keys
from greedyprune.ops.matching import merge_most_similar


@settings(deadline=None)
@given(seed=st.integers(0, 5000), kind=st.sampled_from(cases.KINDS), n=st.integers(1, 40), data=st.data())
def test_tome_divides_the_tokens_into_means(seed, kind, n, data) -> None:
    k = data.draw(st.integers(1, n))
    cues = drawn(seed, kind, n)
    assert cues.keys is not None
    keep = gp.select("tome", cues, k)
    assert keep.rows.tolist() == merge_most_similar(cues.keys.double().mean(1), k).rows.tolist()
    assert keep.weights is not None
    members = keep.weights > 0
    assert members.sum(0).tolist() == [1] * n
    assert members.sum(1).tolist() == keep.gains.tolist()
    torch.testing.assert_close(keep.weights, members / members.sum(1, keepdim=True))
    assert all(bool(members[place, row]) for place, row in enumerate(keep.rows.tolist()))


def test_tome_merges_duplicates_first() -> None:
    keys = torch.eye(5)[[0, 0, 1, 1, 2, 3, 4, 4]].view(8, 1, 5)
    keep = gp.select("tome", gp.Cues(torch.arange(8.0)[:, None], keys=keys), 5)
    assert keep.rows.tolist() == [1, 3, 4, 5, 7]
    assert keep.merge(torch.arange(8.0)[:, None])[:, 0].tolist() == [0.5, 2.5, 4, 5, 6.5]


# Four pivots, then two tokens for each of the first four pivots and one for each of the others.
GOLDEN_DART = [7, 8, 17, 26, 20, 1, 3, 6, 4, 0, 12, 31, 27, 29, 15, 22]


def dart_by_the_book(cues: gp.Cues, k: int, quota: int | None, guard: list[int]) -> list[int]:
    """The order; each pivot's quota, None for an exact budget."""
    assert cues.text is not None
    assert cues.keys is not None
    norm = torch.ones(1) if cues.norm is None else cues.norm.double()
    x, words = cues.features.double() * norm, cues.text.double() * norm
    longest = [
        by_size([float(row.double().abs().sum()) for row in keys])[:4]
        for keys in (cues.keys, cues.more[Keys("decoder", of="text")])
    ]
    pivots = [x[i] for i in longest[0]] + [words[j] for j in longest[1]]
    order = (guard + [i for i in longest[0] if i not in guard])[:k]
    left, p = k - len(order), len(pivots)
    quotas = [left // p + (number < left % p) if quota is None else quota for number in range(p)]
    for pivot, number in zip(pivots, quotas, strict=True):
        free = [i for i in range(cues.n) if i not in order]
        order += [free[place] for place in brute.ranking_of([-cosine(pivot, x[i]) for i in free])[:number]]
    return order


def by_size(worth: list[float]) -> list[int]:
    """From the highest down; sums whose difference is rounding are ties."""
    largest = max(worth)
    return brute.ranking_of([value / largest for value in worth]) if largest > 0 else list(range(len(worth)))


@book
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from([kind for kind in cases.KINDS if kind != "extreme"]),
    n=st.integers(1, 24),
    normed=st.booleans(),
    data=st.data(),
)
def test_dart_is_that_of_the_book(seed, kind, n, normed, data) -> None:
    x, t = cases.draw(kind, n, 6, seed)
    keys, _ = cases.draw(kind, n, 8, seed + 1)
    k = data.draw(st.integers(1, n))
    guard = sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=min(k, 3))))
    more = {"protect": torch.tensor(guard)} if guard else {}
    more |= {} if normed else {"norm": None}
    cues = cases.cues(x, torch.stack([t, -t, x[0], t, x[-1]]), seed, keys=keys.view(n, 2, 4), **more)
    assert gp.select("dart", cues, k).order.tolist() == dart_by_the_book(cues, k, None, guard)


def test_golden_dart() -> None:
    keep = gp.select("dart", example(), 16)
    assert keep.order.tolist() == GOLDEN_DART
    assert keep.order.tolist() == dart_by_the_book(example(), 16, None, [])
    assert keep.gains[:4].tolist() == [2.0] * 4
    assert bool((keep.gains[4:] <= 2).all())


@pytest.mark.parametrize(("budget", "published"), [(64, 68), (128, 132), (192, 196)])
def test_dart_may_keep_what_the_source_keeps(budget, published) -> None:
    assert published == 4 + 8 * (budget // 8)
    method = gp.DART(exact_budget=False)
    cues = cases.cues(*(torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows)) for rows in (576, 30)))
    keep = gp.select(method, cues, published)
    assert keep.k == published
    assert keep.order.tolist() == dart_by_the_book(cues, published, budget // 8, [])
    assert [gp.select(method, cues, published + more).k for more in (1, 7, 8)] == [published, published, published + 8]
    assert gp.select("dart", cues, budget).k == budget
    with pytest.raises(ValueError, match="visual=0"):
        gp.DART(visual=0)


def test_needs_are_the_published_cues() -> None:
    assert gp.PruMerge().needs == (Attention("tower", heads="one"), Keys("tower"))
    assert gp.SparseVLM().needs == (Attention("raters"),)
