"""SparseVLM and PyramidDrop: golden traces, float64 references, properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import cases
import greedyprune as gp
from examples import by_worth, drawn


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
