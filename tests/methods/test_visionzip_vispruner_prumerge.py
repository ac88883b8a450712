"""VisionZip, VisPruner and PruMerge: golden traces, float64 references, properties."""

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
from examples import book, by_worth, cosine, drawn, example, top_split
from greedyprune.ops.matching import thin

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


@settings(deadline=None)
@given(
    seed=st.integers(0, 5000),
    kind=st.sampled_from(cases.KINDS),
    k=st.integers(1, 40),
    ratio=st.floats(0, 1),
    how=st.sampled_from(["released", "attention"]),
)
def test_vispruner_is_a_top_by_attention_and_a_thinned_rest(seed, kind, k, ratio, how) -> None:
    cues = drawn(seed, kind, 40)
    assert cues.attention is not None
    assert cues.encoded is not None
    ranking = by_worth(cues.attention.tolist())
    keep = gp.select(gp.VisPruner(ratio=ratio, ranking=how), cues, k)
    important = int(k * ratio)
    others = torch.tensor(ranking[important:], dtype=torch.int64)
    rest = thin(cues.encoded, others, k - important, 8, mixed=how == "released").tolist()
    assert keep.order.tolist() == ranking[:important] + rest
    assert gp.select(gp.VisPruner(ratio=1.0), cues, k).order.tolist() == ranking[:k]


def test_vispruner_drops_what_repeats_a_better_attended_token() -> None:
    x = torch.eye(6)[[0, 0, 1, 2, 3, 4, 5, 5]]
    attention = torch.arange(8, 0, -1).float() / 64
    cues = gp.Cues(x, attention=attention, encoded=x)
    for how in ("released", "attention"):
        method = gp.VisPruner(ratio=0.0, drop=1, ranking=how)
        assert gp.select(method, cues, 6).order.tolist() == [1, 2, 3, 4, 5, 7]  # 0 and 6 are even
    with pytest.raises(ValueError, match="drop=0"):
        gp.VisPruner(drop=0)
    with pytest.raises(ValueError, match=r"ratio=1\.5 is no share"):
        gp.VisPruner(ratio=1.5)
    with pytest.raises(ValueError, match="ranking='sorted' is unknown: choose one of released, attention"):
        gp.VisPruner(ranking="sorted")


def test_vispruner_ranks_once_or_again() -> None:
    x = torch.eye(6)[[0, 1, 2, 3, 2, 4, 5, 5]]  # 2 and 4 are alike, and both at even ranks
    cues = gp.Cues(x, attention=torch.arange(8, 0, -1).float() / 64, encoded=x)
    # 6 repeats 7 and goes first. Then 4, 2, 0, 1, 3, 5, 7 or 0, 1, 2, 3, 4, 5, 7 are ranked.
    assert gp.select(gp.VisPruner(ratio=0.0, drop=1), cues, 6).order.tolist() == [0, 1, 2, 3, 5, 7]
    again = gp.VisPruner(ratio=0.0, drop=1, ranking="attention")
    assert gp.select(again, cues, 6).order.tolist() == [0, 1, 2, 3, 4, 5]


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
