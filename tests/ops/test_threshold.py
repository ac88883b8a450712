"""Thresholds read off the cosines themselves: a sample of the ranking stands for a large image, and scans are short."""

from __future__ import annotations

import pytest
import torch

import brute
import cases
import counted
import greedyprune as gp
from greedyprune.bench.features import image_like
from greedyprune.ops import ranking, suppression, threshold
from greedyprune.ops.cosine import UnitRows, saliency
from greedyprune.ops.threshold import pairwise_quantile


def sample(rows: list[int], size: int) -> list[int]:
    """The middles of `size` equal stretches of a ranking, by exact arithmetic."""
    n = len(rows)
    return rows if n <= size else [rows[((2 * i + 1) * n) // (2 * size)] for i in range(size)]


@pytest.mark.parametrize("kind", cases.KINDS)
def test_a_large_image_is_judged_by_equal_steps_down_its_ranking(kind: str) -> None:
    for seed in range(20):
        n = 5 + seed
        x, t = cases.draw(kind, n, 6, seed)
        rows = brute.ranking_of(brute.saliency(x, t))
        guard = [1, 4] if seed % 2 else []
        keep = gp.select(
            gp.GreedyPrune(tau=gp.Quantile(0.7, rows=11)),
            gp.Cues(x, text=t[None], protect=torch.tensor(guard, dtype=torch.int64)),
            5,
        )
        tau = brute.quantile(brute.cosines(x[sample(rows, 11)]), 0.7)
        assert keep.certificate.tau == pytest.approx(tau, abs=1e-11)  # type: ignore[union-attr]
        assert (keep.order.tolist(), int(keep.before_fallback)) == brute.greedy(x, t, 5, tau=tau, given=guard)


def test_up_to_the_size_of_the_sample_every_pair_counts() -> None:
    rows = torch.randn(threshold.SAMPLED, 8, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(threshold.SAMPLED, generator=torch.Generator().manual_seed(1))
    assert gp.Quantile(0.8)(UnitRows(rows), order, 4, None) == pairwise_quantile(rows, 0.8)
    assert threshold.SAMPLED >= 144  # the images of the published tables
    with pytest.raises(ValueError, match="a pair takes two tokens"):
        gp.Quantile(0.8, rows=1)


def test_a_sample_has_its_size_and_lies_in_order() -> None:
    for n in range(1, 40):
        for size in range(1, 45):
            places = ranking.strided(torch.arange(n), size).tolist()
            assert places == sample(list(range(n)), size)
            assert places == sorted(set(places))


def test_a_sampled_threshold_follows_the_tokens_wherever_they_lie() -> None:
    method = gp.GreedyPrune(tau=gp.Quantile(0.8, rows=16))
    for seed in range(20):
        x, t = cases.draw("clustered", 60, 8, seed)
        place = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        plain, moved = (gp.select(method, gp.Cues(rows, text=t[None]), 20) for rows in (x, x[place]))
        assert place[moved.order].tolist() == plain.order.tolist()


@pytest.mark.parametrize("q", [0.2, 0.5, 0.8, 0.95])
def test_a_sample_reaches_the_share_of_pairs_that_was_asked_for(q: float) -> None:
    for seed in range(4):
        x, t = image_like(576, 128, seed)
        unit = torch.nn.functional.normalize(x.double(), dim=1)
        cosines = (unit @ unit.T)[torch.ones(576, 576, dtype=torch.bool).triu(1)]
        tau = gp.Quantile(q)(UnitRows(x), saliency(x, t[None])[1], 64, None)
        assert abs(float((cosines <= tau).double().mean()) - q) < 0.04


def test_a_default_selection_is_linear_in_the_tokens() -> None:
    """Arithmetic, and the largest tensor: twice the tokens cost twice as much, and no matrix of all pairs exists."""
    k, d = 64, 64
    for small, large in ((576, 1152), (1152, 2304)):
        cues = [gp.Cues(x, text=t[None]) for x, t in (image_like(n, d) for n in (small, large))]
        few, many = (counted.flops(lambda each=each: gp.select("greedyprune", each, k)) for each in cues)
        assert many < 2.2 * few
        assert counted.sizes(lambda: gp.select("greedyprune", cues[1], k)).largest <= max(large * d, 192 * 192)  # noqa: B023


def test_a_scan_for_a_critical_threshold_reads_the_rows_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, t = image_like(576, 32)
    _, order = saliency(x, t[None])
    read, scans = [0], [0]
    for name, count in (("_pass_over", read), ("reach", scans)):
        whole = getattr(suppression._Pairs, name)

        def counting(*args: object, whole: object = whole, count: list[int] = count) -> object:
            count[0] += 1
            return whole(*args)  # type: ignore[operator]

        monkeypatch.setattr(suppression._Pairs, name, counting)
    tau = suppression.critical_tau(x, order, 64)
    assert scans[0] == suppression.HALVINGS
    assert read[0] <= 64 * suppression.HALVINGS
    monkeypatch.setattr(suppression, "GRAM_LIMIT", 0)
    assert suppression.critical_tau(x, order, 64) == tau


def test_a_scan_decides_in_float64_where_float32_cannot() -> None:
    """Pairs a hair above and below the threshold, closer than float32 resolves."""
    for seed in range(20):
        x = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        tau = float(torch.nn.functional.cosine_similarity(x[0], x[1], dim=0))
        pairs = suppression._Pairs(UnitRows(x), torch.arange(2))
        assert pairs.reach(tau + 1e-10, 0, 2)
        assert not pairs.reach(tau - 1e-10, 0, 2)
