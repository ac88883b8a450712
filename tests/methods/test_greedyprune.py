"""GreedyPrune against brute force in float64, and the mathematics it promises."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import brute
import cases
import greedyprune as gp
from greedyprune.ops.cosine import saliency
from greedyprune.ops.suppression import suppress
from greedyprune.ops.threshold import pairwise_quantile

TAUS = (-1.0, -0.2, 0.0, 0.1, 0.3, 0.5, 0.8, 0.9, 0.99, 1.0, 1.5)
QUANTILES = (0.0, 0.3, 0.5, 0.8, 0.95, 1.0)
FALLBACKS = ("saliency", "least_redundant", "relax", "none")
PER_KIND = 270  # times the 9 kinds of `cases`: 2,430 comparisons


def order_of(x: torch.Tensor, t: torch.Tensor, k: int, **options: object) -> tuple[list[int], int]:
    keep = gp.select(gp.GreedyPrune(**options), gp.Cues(x, text=t.reshape(-1, x.shape[1])), k)  # type: ignore[arg-type]
    return keep.order.tolist(), int(keep.before_fallback)


def policy(seed: int) -> tuple[object, dict[str, object]]:
    """A threshold in the library's words and in those of the brute force."""
    kind = seed % 5
    if kind < 2:
        tau = TAUS[seed // 5 % len(TAUS)]
        return tau, {"tau": tau}
    if kind == 2:
        q = QUANTILES[seed // 5 % len(QUANTILES)]
        return gp.Quantile(q), {"q": q}
    return (gp.MeanScaled(), {"tau": "mean"}) if kind == 3 else (gp.Exact(), {"tau": "exact"})


@pytest.mark.parametrize("kind", cases.KINDS)
def test_equals_brute_force_order_included(kind: str) -> None:
    """Every threshold policy, fallback, preprocessing, text reading and protected rows, on every kind of features."""
    for seed in range(PER_KIND):
        g = torch.Generator().manual_seed(seed)
        n, d, m = (int(torch.randint(low, high, (1,), generator=g)) for low, high in ((2, 26), (2, 24), (1, 4)))
        k = int(torch.randint(1, n, (1,), generator=g))
        x, _ = cases.draw(kind, n, d, seed)
        text = torch.stack([cases.draw(kind, 1, d, seed + 7 * i)[1] for i in range(m)])
        norm = torch.rand(d, generator=g) + 0.1
        given = sorted(torch.randperm(n, generator=g)[: int(torch.randint(0, k + 1, (1,), generator=g))].tolist())
        given = given if seed % 3 == 0 else []
        tau, tau_of_brute = policy(seed)
        fallback = FALLBACKS[seed % 4]
        preprocess = ("none", "none", "rmsnorm", "center")[seed // 4 % 4]
        words = ("last", "question_mean", "question_max")[seed % 3]
        method = gp.GreedyPrune(tau=tau, fallback=fallback, preprocess=preprocess, text=words)  # type: ignore[arg-type]
        cues = gp.Cues(
            x, text=text, norm=norm, protect=torch.tensor(given, dtype=torch.int64), question=slice(m // 2, m)
        )
        keep = gp.select(method, cues, k)

        rows, target = brute.prepare(x, text, preprocess, norm, words, m // 2)
        expected = brute.greedy(rows, target, k, fallback=fallback, given=given, **tau_of_brute)  # type: ignore[arg-type]
        assert (keep.order.tolist(), int(keep.before_fallback)) == expected, (kind, seed, n, d, k, method, given)


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
    _, ranking = saliency(x, t[None])
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


@given(st.integers(0, 10_000), st.sampled_from(cases.KINDS), st.sampled_from([0.2, 0.6, gp.Quantile(0.7), gp.Exact()]))
def test_the_certificate_is_true(seed: int, kind: str, tau: float) -> None:
    x, t = cases.draw(kind, 14, 6, seed)
    k = 5
    keep = gp.select(gp.GreedyPrune(tau=tau), gp.Cues(x, text=t[None]), k)
    proof = keep.certificate
    assert proof is not None
    gram, worth = brute.cosines(x), brute.saliency(x, t)
    own = keep.order[: int(keep.before_fallback)].tolist()
    pairs = [gram[a][b] for a in own for b in own if a != b]
    assert proof.pairwise_max == pytest.approx(max(pairs, default=-1.0), abs=2e-6)
    assert proof.pairwise_max <= proof.tau + 2e-6
    others = [j for j in range(14) if j not in own]
    assert proof.maximal <= all(any(gram[j][i] > proof.tau - 1e-9 for i in own) for j in others)
    best = max(
        sum(worth[i] for i in chosen)
        for size in range(1, k + 1)
        for chosen in combinations(range(14), size)
        if all(gram[a][b] <= proof.tau + 1e-12 for a, b in combinations(chosen, 2))
    )
    if proof.share is not None:  # no set within tau has more saliency than the bound says
        assert sum(worth[i] for i in own) >= proof.share * best - 1e-6


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fallback='most'.*saliency, least_redundant, relax, none"):
        gp.GreedyPrune(fallback="most")  # type: ignore[arg-type]
    for tau in (float("nan"), -2, "abc", None, True):
        with pytest.raises(ValueError, match=r"tau=.* is no cosine.*Quantile"):
            gp.GreedyPrune(tau=tau)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Quantile\(8\).*between 0 and 1"):
        gp.Quantile(8)
    with pytest.raises(ValueError, match=r'preprocess="rmsnorm" needs norm='):
        gp.select(gp.GreedyPrune(preprocess="rmsnorm"), gp.Cues(torch.ones(4, 3), text=torch.ones(1, 3)), 2)


def test_quantiles_of_crowded_cosines_have_the_right_rank():
    """All pairs lie within a few hundred-thousandths: hundreds stand close to the edge of what is doubtful."""
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 64, generator=generator) + 4e-3 * torch.randn(60, 64, generator=generator)
        unit = torch.nn.functional.normalize(x.double(), dim=1)
        cosines = (unit @ unit.T)[torch.ones(60, 60, dtype=torch.bool).triu(1)]
        for q in (0.0, 0.1, 0.25, 0.5, 0.8, 0.9, 0.95, 1.0):
            assert abs(pairwise_quantile(x, q) - float(torch.quantile(cosines, q))) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_as_large_as_their_type_holds_are_prepared_like_smaller_ones(dtype: torch.dtype) -> None:
    x, _ = cases.draw("iid", 20, 6, 1)
    words = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    weight = torch.tensor([1.75, 0.5, 1.5, 1.25, 1.75, 1.0])
    large = torch.finfo(dtype).max / 2 / (1 - torch.finfo(dtype).eps / 2)  # a power of two: twice it overflows
    for how in ("center", "rmsnorm"):
        method = gp.GreedyPrune(preprocess=how, text="question_mean", tau=0.5)  # type: ignore[arg-type]
        rows, text = ((each.sign() + 0.9 * each.tanh()).to(dtype) for each in (x, words))
        plain = gp.select(method, gp.Cues(rows, text=text, norm=weight.to(dtype)), 9)
        long = gp.select(method, gp.Cues(rows * large, text=text * large, norm=weight.to(dtype)), 9)
        assert long.order.tolist() == plain.order.tolist()
        assert torch.allclose(long.gains, plain.gains)


def test_every_balance_that_is_taken_has_a_finite_quality() -> None:
    x, _ = cases.draw("iid", 20, 6, 1)
    cues = gp.Cues(x, text=x[:2], relevance=torch.linspace(0, 1, 20))
    keep = gp.select(gp.CDPruner(theta=0.998), cues, 9)
    assert bool(keep.gains.isfinite().all())
    assert int(keep.order[0]) == 19
    for theta in (0.9999, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"theta=.* is no balance: write a number from 0 to 0\.998, or None"):
            gp.CDPruner(theta=theta)
