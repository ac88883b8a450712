"""The engines whose keys fall (determinantal, marginal relevance, max-sum) equal float64 references, order and gains."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import books
import cases
from greedyprune.ops import determinantal as dpp
from greedyprune.ops import farthest, nearest
from greedyprune.ops.cosine import UnitRows
from greedyprune.ops.marginal import marginal_relevance
from greedyprune.ops.picks import Picks
from greedyprune.ops.sums import farthest_in_sum

MANY = settings(max_examples=500, deadline=None)
CASE = {
    "seed": st.integers(0, 10_000),
    "kind": st.sampled_from(cases.KINDS),
    "n": st.integers(1, 14),
    "d": st.sampled_from([1, 2, 3, 8, 32]),
    "data": st.data(),
}


def worths(n: int, seed: int, how: str) -> Tensor:
    """Values for rows: all equal, all different, or with many ties and zeros. -> (n,)"""
    g = torch.Generator().manual_seed(seed + 7)
    return {
        "equal": torch.ones(n),
        "uniform": torch.rand(n, generator=g),
        "tied": torch.randint(0, 3, (n,), generator=g).float(),
    }[how]


def drawn(data, kind: str, n: int, d: int, seed: int) -> tuple[Tensor, int, list[int]]:
    """Rows of some type, a budget, and rows taken beforehand."""
    x, _ = cases.draw(kind, n, d, seed)
    x = data.draw(st.sampled_from([x, x.double(), x.clamp(-1e4, 1e4).bfloat16()]))
    k = data.draw(st.integers(1, n))
    return x, k, sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=min(k, 3))))


def equal(found: Picks, expected: books.Found, atol: float = 1e-5) -> None:
    assert found.order.tolist() == expected[0]
    torch.testing.assert_close(found.gains, torch.tensor(expected[1], dtype=torch.float64), rtol=1e-6, atol=atol)


def rows(given: list[int]) -> Tensor | None:
    return torch.tensor(given) if given else None


@MANY
@given(how=st.sampled_from(["equal", "uniform", "tied"]), pool=st.sampled_from([(1, 1), (1, 3), (3, 8), (64, 512)]), **CASE)
def test_determinantal_equals_gram_schmidt(seed, kind, n, d, data, how, pool) -> None:
    x, k, guard = drawn(data, kind, n, d, seed)
    quality = worths(n, seed, how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpp, "JOINING", pool[0])
        patch.setattr(dpp, "MOST", pool[1])
        found = dpp.determinantal(x, quality, k, given=rows(guard))
    equal(found, books.determinantal(x, quality.double().tolist(), k, guard), atol=1e-9)


@MANY
@given(
    how=st.sampled_from(["equal", "uniform", "tied"]),
    trade=st.sampled_from([0, 0.3, 0.5, 0.9, 1]),
    pool=st.sampled_from([1, 2, 5, 96]),
    **CASE,
)
def test_marginal_relevance_equals_the_book(seed, kind, n, d, data, how, trade, pool) -> None:
    x, k, guard = drawn(data, kind, n, d, seed)
    worth = worths(n, seed, how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "LEAST", pool)
        patch.setattr(nearest, "MOST", pool)
        found = marginal_relevance(x, worth, k, trade, given=rows(guard))
    equal(found, books.marginal(x, worth.double().tolist(), k, trade, guard))


@MANY
@given(**CASE)
def test_max_sum_equals_the_book(seed, kind, n, d, data) -> None:
    x, k, guard = drawn(data, kind, n, d, seed)
    start = guard or [data.draw(st.integers(0, n - 1))]
    equal(farthest_in_sum(x, k, given=torch.tensor(start)), books.max_sum(x, k, start))


@MANY
@given(pool=st.sampled_from([1, 2, 5, 96]), near=st.sampled_from([1, 4, 32]), **CASE)
def test_farthest_first_equals_the_book_whatever_the_pool(seed, kind, n, d, data, pool, near) -> None:
    x, k, guard = drawn(data, kind, n, d, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "LEAST", pool)
        patch.setattr(nearest, "MOST", pool)
        patch.setattr(farthest, "NEAR", near)
        found = farthest.farthest_first(x, k, given=rows(guard))
    equal(found, books.max_min(x, k, guard))


@pytest.mark.parametrize("kind", cases.KINDS)
def test_larger_sets_and_many_pools(kind, monkeypatch) -> None:
    x, _ = cases.draw(kind, 90, 24, 3)
    quality = worths(90, 1, "uniform")
    for joining, most in ((3, 9), (64, 512)):
        monkeypatch.setattr(dpp, "JOINING", joining)
        monkeypatch.setattr(dpp, "MOST", most)
        found = dpp.determinantal(x, quality, 20, given=torch.tensor([4, 50]))
        equal(found, books.determinantal(x, quality.double().tolist(), 20, [4, 50]), atol=1e-9)
    monkeypatch.setattr(nearest, "LEAST", 6)
    monkeypatch.setattr(nearest, "MOST", 6)
    equal(marginal_relevance(x, quality, 40), books.marginal(x, quality.double().tolist(), 40, 0.5, []))
    equal(farthest_in_sum(x, 40, given=torch.tensor([4])), books.max_sum(x, 40, [4]))


def test_a_singular_kernel_stops_where_nothing_is_left() -> None:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    tripled = torch.cat([x, 2 * x, -x])
    found = dpp.determinantal(tripled, torch.ones(9), 9)
    assert sorted(row % 3 for row in found.order.tolist()) == [0, 1, 2]
    given_twice = dpp.determinantal(tripled, torch.ones(9), 9, given=torch.tensor([0, 3]))
    assert given_twice.order.tolist()[:2] == [0, 3]
    assert given_twice.gains[1] == 0
    assert len(given_twice.order) == 4  # the duplicate took up no direction
    for nothing in (torch.zeros(5, 3), torch.ones(5, 3)):
        assert dpp.determinantal(nothing, torch.ones(5), 5).order.tolist() == ([0] if nothing.any() else [])
    assert dpp.determinantal(torch.eye(4), torch.zeros(4), 3).order.tolist() == []


def test_determinantal_gains_multiply_to_the_determinant() -> None:
    x, _ = cases.draw("offset", 40, 16, 5)
    quality = worths(40, 2, "uniform") + 0.1
    found = dpp.determinantal(x, quality, 10)
    units = torch.nn.functional.normalize(x.double(), dim=1) * quality.double()[:, None]
    kernel = (units @ units.T)[found.order][:, found.order]
    assert float(found.gains.log().sum()) == pytest.approx(float(torch.logdet(kernel)), abs=1e-9)
    shorter = dpp.determinantal(x, quality, 6)
    assert shorter.order.tolist() == found.order[:6].tolist()


def test_nearly_dependent_rows_are_told_apart_in_float64() -> None:
    # The second and third rows leave 1e-8 and 4e-8 of the first one's span: float32 products say nothing of either.
    x = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-4, 0.0], [1.0, 0.0, 2e-4]], dtype=torch.float64)
    assert dpp.determinantal(x, torch.tensor([2.0, 1.0, 1.0]), 3).order.tolist() == [0, 2, 1]
    assert dpp.determinantal(x[[0, 2, 1]], torch.tensor([2.0, 1.0, 1.0]), 3).order.tolist() == [0, 1, 2]


def test_marginal_relevance_at_its_ends() -> None:
    x, _ = cases.draw("iid", 30, 8, 1)
    worth = worths(30, 3, "uniform")
    assert marginal_relevance(x, worth, 12, 1.0).order.tolist() == worth.argsort(descending=True)[:12].tolist()
    start = torch.tensor([7])
    alone = marginal_relevance(x, worth, 12, 0.0, given=start).order
    assert alone.tolist() == farthest.farthest_first(x, 12, given=start).order.tolist()


def test_differences_that_float32_cannot_see_decide() -> None:
    angle = torch.tensor([0.0, 1.0, -1.0 - 1e-9, 0.02], dtype=torch.float64)
    x, start = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0])
    assert marginal_relevance(x, torch.zeros(4), 2, 0.5, given=start).order.tolist() == [0, 2]
    assert farthest_in_sum(x, 2, given=start).order.tolist() == [0, 2]
    worth = torch.tensor([1.0, 0.5, 0.5 + 1e-9, 0.0], dtype=torch.float64)
    assert marginal_relevance(torch.eye(4), worth, 2).order.tolist() == [0, 2]


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e150])
def test_engines_share_unit_rows_and_the_length_of_rows_does_not_matter(scale) -> None:
    x = cases.draw("clustered", 60, 8, 2)[0].double()
    worth, start = worths(60, 4, "uniform"), torch.tensor([3])
    for engine in (
        lambda x: dpp.determinantal(x, worth + 0.1, 8),
        lambda x: marginal_relevance(x, worth, 20),
        lambda x: farthest_in_sum(x, 20, given=start),
        lambda x: farthest.farthest_first(x, 20),
    ):
        found = engine(UnitRows(x * scale))
        assert found.order.tolist() == engine(x).order.tolist()
        assert found.order.dtype == torch.int64
        assert all(math.isfinite(gain) for gain in found.gains.tolist())
