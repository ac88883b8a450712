"""GreedyPrune against brute force in float64, and the mathematics it promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import brute
import cases
import greedyprune as gp
from greedyprune.ops.cosine import saliency
from greedyprune.ops.suppression import suppress

TAUS = (-1.0, -0.2, 0.0, 0.1, 0.3, 0.5, 0.8, 0.9, 0.99, 1.0, 1.5)
QUANTILES = (0.0, 0.3, 0.5, 0.8, 0.95, 1.0)
PER_KIND = 240  # times the kinds of `cases`: 2,160 comparisons


def order_of(x: torch.Tensor, t: torch.Tensor, k: int, **options: object) -> tuple[list[int], int]:
    keep = gp.select(gp.GreedyPrune(**options), gp.Cues(x, text=t[None]), k)  # type: ignore[arg-type]
    return keep.order.tolist(), int(keep.before_fallback)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_equals_brute_force_order_included(kind: str) -> None:
    for seed in range(PER_KIND):
        g = torch.Generator().manual_seed(seed)
        n = int(torch.randint(1, 32, (1,), generator=g))
        d = int(torch.randint(2, 24, (1,), generator=g))
        k = int(torch.randint(1, n + 1, (1,), generator=g))
        x, t = cases.draw(kind, n, d, seed)
        if seed % 3 == 0:
            q = QUANTILES[seed // 3 % len(QUANTILES)]
            found, expected = order_of(x, t, k, tau=gp.Quantile(q)), brute.greedy(x, t, k, q=q)
        else:
            tau = TAUS[seed % len(TAUS)]
            found, expected = order_of(x, t, k, tau=tau), brute.greedy(x, t, k, tau=tau)
        assert found == expected, (kind, seed, n, d, k)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_decides_on_the_values_as_given_whatever_their_type(dtype: torch.dtype) -> None:
    for seed in range(40):
        x, t = cases.draw("clustered", 30, 16, seed)
        x, t = x.to(dtype), t.to(dtype)
        assert order_of(x, t, 12, tau=0.7) == brute.greedy(x, t, 12, tau=0.7)


def test_decides_in_float64_where_float32_cannot() -> None:
    """Pairs a hair above and below tau, closer than float32 resolves."""
    wrong = 0
    for seed in range(50):
        g = torch.Generator().manual_seed(seed)
        a = torch.randn(8, generator=g, dtype=torch.float64)
        b = torch.randn(8, generator=g, dtype=torch.float64)
        tau = float(torch.nn.functional.cosine_similarity(a, b, dim=0))
        x = torch.stack([a, b])
        for shift, kept in ((1e-10, 2), (-1e-10, 1)):
            found = suppress(x, torch.tensor([0, 1]), tau + shift, 2)
            wrong += found.order.shape[0] != kept
    assert wrong == 0


@given(st.integers(0, 10_000), st.sampled_from(cases.KINDS))
def test_block_size_changes_nothing(seed: int, kind: str) -> None:
    x, t = cases.draw(kind, 70, 6, seed)
    _, ranking = saliency(x, t)
    results = [suppress(x, ranking, 0.6, 20, block=block) for block in (1, 7, 64, 200)]
    for other in results[1:]:
        assert other.order.tolist() == results[0].order.tolist()
        assert other.by.tolist() == results[0].by.tolist()


def test_thread_count_and_matmul_precision_change_nothing() -> None:
    x, t = cases.draw("offset", 400, 64, 0)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    expected = order_of(x, t, 60)
    try:
        for count, mode in ((1, "highest"), (2, "highest"), (1, "medium")):
            torch.set_num_threads(count)
            torch.set_float32_matmul_precision(mode)
            assert order_of(x, t, 60) == expected
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    with torch.autocast("cpu", torch.bfloat16):
        assert order_of(x, t, 60) == expected


@given(st.integers(0, 10_000), st.sampled_from(cases.KINDS), st.sampled_from(TAUS))
def test_kept_before_the_fallback_is_a_maximal_set_within_tau(seed: int, kind: str, tau: float) -> None:
    x, t = cases.draw(kind, 25, 8, seed)
    keep = gp.select(gp.GreedyPrune(tau=tau, fallback="none"), gp.Cues(x, text=t[None]), 24)
    gram = brute.cosines(x)
    kept = keep.order.tolist()
    assert all(gram[a][b] <= tau + 1e-9 for a in kept for b in kept if a != b)
    if len(kept) < 24:  # it stopped because every other token is too similar to a kept one
        assert all(any(gram[j][i] > tau - 1e-9 for i in kept) for j in range(25) if j not in kept)


@given(st.integers(0, 10_000), st.sampled_from(cases.KINDS), st.integers(1, 29))
def test_selection_for_k_is_a_prefix_of_that_for_more(seed: int, kind: str, k: int) -> None:
    x, t = cases.draw(kind, 30, 8, seed)
    small, large = (gp.select(gp.GreedyPrune(tau=0.5), gp.Cues(x, text=t[None]), m) for m in (k, k + 1))
    assert large.order[:k].tolist() == small.order.tolist() or int(small.before_fallback) < k


@given(st.integers(0, 10_000), st.sampled_from(cases.KINDS), st.integers(1, 30))
def test_tau_of_one_or_more_is_top_k_and_the_first_pick_is_the_most_salient(seed: int, kind: str, k: int) -> None:
    x, t = cases.draw(kind, 30, 8, seed)
    cues = gp.Cues(x, text=t[None])
    top = gp.select(gp.Saliency(), cues, k)
    assert gp.select(gp.GreedyPrune(tau=1.0), cues, k).order.tolist() == top.order.tolist()
    for tau in TAUS:
        assert gp.select(gp.GreedyPrune(tau=tau), cues, k).order[0] == top.order[0]


@given(st.integers(0, 10_000))
def test_scaling_rows_and_text_changes_nothing(seed: int) -> None:
    x, t = cases.draw("clustered", 30, 8, seed)
    scale = 2.0 ** torch.randint(-8, 9, (30, 1), generator=torch.Generator().manual_seed(seed))
    assert order_of(x * scale, t * 0.125, 9) == order_of(x, t, 9)


@given(st.integers(0, 10_000), st.sampled_from(cases.KINDS))
def test_suppressed_by_names_a_kept_token_that_is_too_similar_and_more_salient(seed: int, kind: str) -> None:
    x, t = cases.draw(kind, 30, 8, seed)
    keep = gp.select(gp.GreedyPrune(tau=0.4), gp.Cues(x, text=t[None]), 12)
    gram, worth = brute.cosines(x), brute.saliency(x, t)
    assert keep.suppressed_by is not None
    kept = set(keep.order[: int(keep.before_fallback)].tolist())
    for j, by in enumerate(keep.suppressed_by.tolist()):
        if by >= 0:
            assert by in kept
            assert j not in set(keep.order.tolist())
            assert gram[j][by] > 0.4 - 1e-9
            assert worth[by] >= worth[j] - 1e-12


def test_gains_are_the_saliencies_of_the_rows_taken() -> None:
    x, t = cases.draw("iid", 30, 8, 3)
    keep = gp.select(gp.GreedyPrune(), gp.Cues(x, text=t[None]), 10)
    worth = brute.saliency(x, t)
    assert keep.gains.tolist() == pytest.approx([worth[i] for i in keep.order.tolist()], abs=1e-5)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fallback='most'.*saliency, none"):
        gp.GreedyPrune(fallback="most")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tau=nan.*Quantile"):
        gp.GreedyPrune(tau=float("nan"))
    with pytest.raises(ValueError, match=r"Quantile\(8\).*between 0 and 1"):
        gp.Quantile(8)
