"""VisionZip, VisPruner, PruMerge, SparseVLM, PyramidDrop, ToMe, DART: golden traces, float64 references, properties."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import brute
import cases
import greedyprune as gp
from greedyprune.cues import Attention, Keys
from greedyprune.ops.matching import merge_most_similar, thin

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


# VisionZip ----------------------------------------------------------------------------------------------------------


# From the float64 references below, for `example()`; this one: 10 dominant tokens, then 2 targets and who went to them.
GOLDEN_VISIONZIP = [16, 5, 24, 13, 2, 21, 10, 29, 18, 7, 0, 17]
GOLDEN_CLUSTERS = [
    [0, 4, 6, 8, 9, 12, 19, 22, 25, 31],
    [1, 3, 11, 14, 15, 17, 20, 23, 26, 27, 28, 30],
]


def visionzip_by_the_book(cues: gp.Cues, k: int) -> tuple[list[int], dict[int, dict[int, float]]]:
    """The order, and for each kept row its weights."""
    assert cues.attention is not None
    assert cues.keys is not None
    n, ranking = cues.n, by_worth(cues.attention.tolist())
    count = min(max(top_split(k, Fraction(10, 64)), 1), k - 1)
    dominant, rest = ranking[: k - count], sorted(ranking[k - count :])
    targets = [rest[place * (len(rest) // count)] for place in range(count)]
    keys = cues.keys.double().mean(1)
    went: dict[int, list[int]] = {t: [] for t in targets}
    for i in rest:
        if targets and i not in targets:
            similar = [cosine(keys[i], keys[t]) for t in targets]
            went[next(t for t, s in zip(targets, similar, strict=True) if s >= max(similar) - brute.SLACK)].append(i)
    weights = {i: {i: 1.0} for i in dominant}
    weights.update({t: {t: 1.0, **{i: 1 / len(went[t]) for i in went[t]}} for t in targets})
    assert len(weights) == k <= n
    return dominant + targets, weights


@book
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(cases.KINDS), n=st.integers(1, 40), data=st.data())
def test_visionzip_is_that_of_the_book(seed, kind, n, data) -> None:
    cues, k = drawn(seed, kind, n), data.draw(st.integers(1, n))
    keep = gp.select("visionzip", cues, k)
    order, weights = visionzip_by_the_book(cues, k)
    assert keep.order.tolist() == order
    dense = torch.zeros(k, n)
    for place, row in enumerate(sorted(order)):
        for column, weight in weights[row].items():
            dense[place, column] = weight
    torch.testing.assert_close(keep.weights, dense, rtol=1e-6, atol=0)


def test_golden_visionzip() -> None:
    keep = gp.select("visionzip", example(), 12)
    assert keep.order.tolist() == GOLDEN_VISIONZIP
    assert keep.order.tolist() == visionzip_by_the_book(example(), 12)[0]
    assert keep.weights is not None
    assert [(row > 0).nonzero()[:, 0].tolist() for row in keep.weights if int((row > 0).sum()) > 1] == GOLDEN_CLUSTERS


@pytest.mark.parametrize(("k", "dominant", "contextual"), [(64, 54, 10), (128, 108, 20), (192, 162, 30)])
def test_visionzip_splits_published_budgets_as_published(k, dominant, contextual) -> None:
    keep = gp.select("visionzip", drawn(0, "iid", 576), k)
    assert keep.weights is not None
    sums = keep.weights.sum(1)
    assert (int((sums < 1.5).sum()), int((sums > 1.5).sum())) == (dominant, contextual)
    torch.testing.assert_close(sums, 1 + (sums > 1.5).float())  # a target, and the mean of what went to it
    assert [gp.select("visionzip", drawn(0, "iid", 9), few).before_fallback for few in (1, 2, 9)] == [1, 2, 9]
    with pytest.raises(ValueError, match=r"contextual=1\.0 is no share"):
        gp.VisionZip(contextual=1.0)


# VisPruner ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(seed=st.integers(0, 5000), kind=st.sampled_from(cases.KINDS), k=st.integers(1, 40), ratio=st.floats(0, 1))
def test_vispruner_is_a_top_by_attention_and_a_thinned_rest(seed, kind, k, ratio) -> None:
    cues = drawn(seed, kind, 40)
    assert cues.attention is not None
    assert cues.encoded is not None
    ranking = by_worth(cues.attention.tolist())
    keep = gp.select(gp.VisPruner(ratio=ratio), cues, k)
    important = int(k * ratio)
    rest = thin(cues.encoded, torch.tensor(ranking[important:], dtype=torch.int64), k - important, 8).tolist()
    assert keep.order.tolist() == ranking[:important] + rest
    assert gp.select(gp.VisPruner(ratio=1.0), cues, k).order.tolist() == ranking[:k]


def test_vispruner_drops_what_repeats_a_better_attended_token() -> None:
    x = torch.eye(6)[[0, 0, 1, 2, 3, 4, 5, 5]]
    attention = torch.arange(8, 0, -1).float() / 64
    cues = gp.Cues(x, attention=attention, encoded=x)
    assert gp.select(gp.VisPruner(ratio=0.0, drop=1), cues, 6).order.tolist() == [1, 2, 3, 4, 5, 7]  # 0 and 6 are even
    with pytest.raises(ValueError, match="drop=0"):
        gp.VisPruner(drop=0)
    with pytest.raises(ValueError, match=r"ratio=1\.5 is no share"):
        gp.VisPruner(ratio=1.5)


# PruMerge -----------------------------------------------------------------------------------------------------------


def prumerge_by_the_book(cues: gp.Cues, k: int, near: int, means: bool, plus: bool) -> tuple[list[int], Tensor]:
    """The order, and the weights in the order of rows. With the token of the dropped ones, an exact budget."""
    assert cues.attention is not None
    assert cues.keys is not None
    n, worth = cues.n, cues.attention.tolist()
    ranking, extra = by_worth(worth), 1 < k < n
    kept = ranking[: k - extra]
    if plus:
        count = k - extra
        top = max(count - top_split(count, Fraction(3, 4)), 1)
        rest = [i for i in range(n) if i not in ranking[:top]]
        kept = ranking[:top] + [rest[place * len(rest) // (count - top)] for place in range(count - top)]
    rows = {}
    for i in kept:
        rows[i] = dict.fromkeys(range(n), 0.0) | {i: 1.0}
        if k < n:
            others = [j for j in range(n) if j != i]
            similar = [cosine(cues.keys[i].flatten(), cues.keys[j].flatten()) for j in others]
            for place in brute.ranking_of(similar)[:near]:
                rows[i][others[place]] = worth[others[place]]
    if extra:
        dropped = [i for i in ranking if i not in kept]
        rows[dropped[0]] = {j: worth[j] if j in dropped else 0.0 for j in range(n)}
        kept = [*kept, dropped[0]]
    weights = torch.tensor([[rows[i][j] for j in range(n)] for i in sorted(kept)], dtype=torch.float64)
    return kept, weights / weights.sum(1, keepdim=True) if means else weights


@book
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(cases.KINDS),
    n=st.integers(1, 14),
    near=st.integers(1, 16),
    means=st.booleans(),
    plus=st.booleans(),
    data=st.data(),
)
def test_prumerge_is_that_of_the_book(seed, kind, n, near, means, plus, data) -> None:
    cues, k = drawn(seed, kind, n), data.draw(st.integers(1, n))
    method = (gp.PruMergePlus if plus else gp.PruMerge)(neighbours=near, normalise=means)
    keep = gp.select(method, cues, k)
    order, weights = prumerge_by_the_book(cues, k, near, means, plus)
    assert keep.order.tolist() == order
    torch.testing.assert_close(keep.weights, weights.float(), rtol=1e-6, atol=1e-9)


def test_prumerge_may_count_outliers() -> None:
    attention = torch.full((100,), 0.001) + torch.arange(100) * 1e-6
    attention[[7, 50, 93]] = torch.tensor([0.2, 0.3, 0.1])
    cues = drawn(0, "iid", 100, attention)
    keep = gp.select(gp.PruMerge(adaptive=True), cues, 20)
    assert keep.order.tolist() == [50, 7, 93, 99]  # the outliers, and the sum of the others at the best of these
    assert gp.select(gp.PruMerge(adaptive=True, rest=False), cues, 20).order.tolist() == [50, 7, 93]
    assert gp.select(gp.PruMerge(adaptive=True, rest=False), cues, 2).order.tolist() == [50, 7]
    assert gp.select(gp.PruMerge(adaptive=True), drawn(0, "iid", 100, torch.zeros(100)), 20).order.tolist() == [0, 1]
    # 3 of 100: every floor(33 / 3) = 11th token beside them; of these ten as many as fit, evenly.
    sample = [*range(0, 99, 11)]
    sample.remove(0)
    plus = gp.select(gp.PruMergePlus(adaptive=True, rest=False), cues, 20)
    assert plus.order.tolist() == [50, 7, 93, 0, *sample]
    assert gp.select(gp.PruMergePlus(adaptive=True, rest=False), cues, 6).order.tolist() == [50, 7, 93, 0, 33, 66]
    with pytest.raises(ValueError, match="neighbours=0"):
        gp.PruMerge(neighbours=0)


def test_prumerge_without_attention_leaves_rows_alone() -> None:
    keep = gp.select(gp.PruMerge(rest=False), drawn(0, "iid", 40, torch.zeros(40)), 9)
    assert torch.equal(keep.weights, torch.eye(40)[:9])


# SparseVLM ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "counts"), [(110, [300, 200, 110]), (36, [303, 110, 36]), (17, [66, 30, 17])])
def test_sparsevlm_keeps_what_is_published(k, counts) -> None:
    assert gp.SparseVLM().counts(k, 576, 3) == counts
    assert gp.SparseVLM().counts(2 * k, 2 * 576, 3) == [2 * count for count in counts]
    assert gp.SparseVLMRecycle().counts(k, 576, 3) == counts


@pytest.mark.parametrize("n", [0, 1, 2, 7, 100, 576, 2880])
def test_sparsevlm_counts_fall_from_cut_to_cut_and_rise_with_the_budget(n) -> None:
    before = [0, 0, 0]
    for k in range(n + 1):
        first, second, last = gp.SparseVLM().counts(k, n, 3)
        assert n >= first >= second >= last == k
        assert second >= before[1]
        # The published 303 for "128" are more than the 300 for "192".
        assert first >= before[0] or 36 / 576 < k / n <= 110 / 576
        assert first + second + last >= sum(before)
        before = [first, second, last]
    assert gp.SparseVLM().counts(n, n, 3) == [n, n, n]
    assert gp.SparseVLM().counts(n // 2, n, 1) == [n // 2]
    assert len(gp.SparseVLM().counts(n // 2, n, 2)) == 2


@settings(deadline=None)
@given(seed=st.integers(0, 5000), kind=st.sampled_from(cases.KINDS), n=st.integers(1, 90), data=st.data())
def test_sparsevlm_keeps_the_top_and_recycles_some_of_the_rest(seed, kind, n, data) -> None:
    k = data.draw(st.integers(1, n))
    cues = drawn(seed, kind, n)
    assert cues.attention is not None
    ranking = by_worth(cues.attention.tolist())
    assert gp.select("sparsevlm", cues, k).order.tolist() == ranking[:k]
    keep = gp.select("sparsevlm_recycle", cues, k)
    assert keep.weights is not None
    weights = dict(zip(keep.rows.tolist(), keep.weights, strict=True))
    # The most tokens that are kept whole so that they and the published number of means fit, at least half of k.
    means = {w: (int(0.3 * (n - w)) + 1) // 10 + 1 if w < n else 0 for w in range(k + 1)}
    whole = max((w for w in means if w + means[w] <= k), default=0)
    whole = max(whole, (k + 1) // 2)
    assert keep.order.tolist()[:whole] == ranking[:whole]
    for row in ranking[:whole]:
        assert weights[row].nonzero()[:, 0].tolist() == [row]
    pool = ranking[whole:][: max(int(0.3 * (n - whole)) + 1, k - whole)] if whole < k else []
    members = [i for row in keep.order.tolist()[whole:] for i in weights[row].nonzero()[:, 0].tolist()]
    assert sorted(members) == sorted(pool)  # each recycled token in one mean
    torch.testing.assert_close(keep.weights.sum(1), torch.ones(k))
    assert all(float(weights[row][row]) > 0 for row in keep.rows.tolist())  # a mean stands at one of its tokens


def test_sparsevlm_recycles_heaps() -> None:
    # 40 tokens, 20 kept whole, 20 dropped: 7 recycled. Their states form two heaps far apart.
    attention = torch.arange(40, 0, -1).float() / 1024
    x = torch.zeros(40, 3)
    x[20:27] = torch.tensor([0.0, 0.1, 9.0, 0.05, 9.1, 9.05, 9.02])[:, None]
    keep = gp.select(gp.SparseVLMRecycle(neighbours=2), gp.Cues(x, attention=attention), 21)
    assert keep.order.tolist()[:20] == list(range(20))
    assert keep.weights is not None
    assert keep.weights[20].nonzero()[:, 0].tolist() == list(range(20, 27))
    with pytest.raises(ValueError, match="neighbours=0"):
        gp.SparseVLMRecycle(neighbours=0)


# PyramidDrop --------------------------------------------------------------------------------------------------------


GOLDEN_PYRAMIDDROP = [
    [17, 11, 5, 28, 22, 16, 10, 4, 27, 21, 15, 9, 3, 26, 20, 14],
    [27, 3, 20, 16, 9, 26, 5, 22],
    [27, 16, 5, 20],
]


def through_the_cuts(method: gp.Method, attentions: list[Tensor], k: int) -> list[list[int]]:
    """What is left after each cut, in the order taken, told in the first cut's tokens."""
    n = attentions[0].shape[0]
    left, orders = torch.arange(n), []
    for count, attention in zip(method.counts(k, n, len(attentions)), attentions, strict=True):
        keep = gp.select(method, gp.Cues(torch.ones(left.shape[0], 2), attention=attention[left]), count)
        orders.append(left[keep.order].tolist())
        left = left[keep.rows]
    return orders


def test_golden_pyramiddrop() -> None:
    attentions = [((torch.arange(32) * a + 3) % 41).float() / 64 for a in (7, 12, 30)]
    left, expected = list(range(32)), []
    for count, attention in zip((16, 8, 4), attentions, strict=True):
        values = attention.tolist()
        chosen = sorted(left, key=lambda i, values=values: (-values[i], i))[:count]
        expected.append(chosen)
        left = sorted(chosen)
    orders = through_the_cuts(gp.PyramidDrop(), attentions, 4)
    assert orders == expected == GOLDEN_PYRAMIDDROP


def test_pyramiddrop_keeps_what_is_published() -> None:
    assert gp.PyramidDrop().counts(72, 576, 3) == [288, 144, 72]
    assert gp.PyramidDrop().at == gp.Depths((0.25, 0.5, 0.75))
    assert gp.Depths((0.25, 0.5, 0.75)).of(32) == gp.Layers((8, 16, 24))
    assert gp.SparseVLM().at.of(32) == gp.Layers((3, 7, 16))  # type: ignore[attr-defined]


# ToMe ---------------------------------------------------------------------------------------------------------------


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


# DART ---------------------------------------------------------------------------------------------------------------


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
