"""The contract of every registered method, held by registration: a new method is tested by existing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cases
import greedyprune as gp
from greedyprune.eval.configs import usual_methods
from greedyprune.models.support import matrix
from greedyprune.naming import as_method, method_class
from greedyprune.plain import to_plain
from greedyprune.registry import METHODS
from tiny import tiny

NAMES = sorted(METHODS)
N, D = 24, 8


def cues(seed: int, kind: str = "clustered", n: int = N, permute: torch.Tensor | None = None) -> gp.Cues:
    x, _ = cases.draw(kind, n, D, seed)
    text = torch.randn(5, D, generator=torch.Generator().manual_seed(seed + 1))
    return cases.cues(x, text, seed, permute)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 5000), kind=st.sampled_from(cases.KINDS), k=st.integers(0, N + 3))
def test_keeps_exactly_k_distinct_sorted_rows(name: str, seed: int, kind: str, k: int) -> None:
    keep = gp.select(name, cues(seed, kind), k)
    rows = keep.rows.tolist()
    assert rows == sorted(set(rows))
    assert all(0 <= row < N for row in rows)
    assert len(rows) == min(k, N) or not as_method(name).exact
    assert sorted(keep.order.tolist()) == rows
    assert keep.gains.shape == keep.order.shape
    assert int(keep.before_fallback) <= len(rows)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 5000), protect=st.sets(st.integers(0, N - 1), max_size=N), k=st.integers(1, N))
def test_protected_tokens_are_kept_or_the_budget_refused(name: str, seed: int, protect: set[int], k: int) -> None:
    plain = cues(seed, "iid")
    guarded = replace(plain, protect=torch.tensor(sorted(protect), dtype=torch.int64))
    if protect and as_method(name).merges:
        with pytest.raises(ValueError, match="merges tokens and cannot protect any"):
            gp.select(name, guarded, k)
        return
    if len(protect) > k:
        with pytest.raises(ValueError, match=rf"protect holds {len(protect)} tokens and the budget keeps {k}"):
            gp.select(name, guarded, k)
        return
    keep = gp.select(name, guarded, k)
    assert protect <= set(keep.rows.tolist())
    assert keep.k == k or not as_method(name).exact
    if not protect:
        assert keep.order.tolist() == gp.select(name, plain, k).order.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_same_input_same_selection_and_the_cues_are_left_alone(name: str) -> None:
    given_cues = cues(1)
    before = given_cues.features.clone()
    first = gp.select(name, given_cues, 7)
    torch.manual_seed(123)  # the global generator plays no part
    second = gp.select(name, given_cues, 7)
    assert first.order.tolist() == second.order.tolist()
    assert torch.equal(given_cues.features, before)


@pytest.mark.parametrize("name", [n for n in NAMES if method_class(n).equivariant])
@given(seed=st.integers(0, 5000), k=st.integers(1, N))
def test_permuting_the_tokens_permutes_the_selection(name: str, seed: int, k: int) -> None:
    permute = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    plain = gp.select(name, cues(seed, "iid"), k).order
    permuted = gp.select(name, cues(seed, "iid", permute=permute), k).order
    assert permute[permuted].tolist() == plain.tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused_by_name_and_row(name: str, value: float) -> None:
    bad = cues(0)
    bad.features[17, 3] = value
    with pytest.raises(ValueError, match=r"features holds NaN or infinity, first in row 17 of 24"):
        gp.select(name, bad, 5)
    bad = cues(0)
    assert bad.text is not None
    bad.text[4, 0] = value
    with pytest.raises(ValueError, match="text holds NaN or infinity"):
        gp.select(name, bad, 5)
    for field in ("attention", "keys", "encoded"):
        bad = cues(0)
        getattr(bad, field)[9] = value
        with pytest.raises(ValueError, match=f"{field} holds NaN or infinity, first in row 9 of 24"):
            gp.select(name, bad, 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zero", "constant", "one token", "huge"])
def test_degenerate_cues_have_a_defined_answer(name: str, kind: str) -> None:
    n = 1 if kind == "one token" else N
    x = {"zero": 0.0, "constant": 1.0, "one token": 0.5, "huge": 3e38}[kind] * torch.ones(n, D)
    for k in (1, n):
        same = {"attention": x[:, 0], "keys": x.view(n, 2, -1), "encoded": x}
        keep = gp.select(name, cases.cues(x, torch.ones(1, D), **same), k)
        assert keep.k == min(k, n) or not as_method(name).exact


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_gradients_are_fine(name: str) -> None:
    x = cues(2).features.requires_grad_()
    text = torch.ones(1, D)
    exact = gp.select(name, cases.cues(x.detach(), text), 6)
    with_grad = gp.select(name, cases.cues(x, text, attention=cases.cues(x, text).attention.requires_grad_()), 6)  # type: ignore[union-attr]
    assert exact.rows.tolist() == with_grad.rows.tolist()
    assert not with_grad.gains.requires_grad
    half = cases.cues(x.detach().bfloat16(), text.bfloat16())
    widened = {
        field: value.float()
        for field in ("attention", "keys", "encoded", "norm")
        if isinstance(value := getattr(half, field), torch.Tensor)
    }
    more = {need: value.float() for need, value in half.more.items()}
    wide = cases.cues(half.features.float(), text, more=more, **widened)
    assert gp.select(name, half, 6).order.tolist() == gp.select(name, wide, 6).order.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_cue_is_refused_with_the_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = as_method(name)
    for need in method.needs:
        assert not need.met(gp.Cues(torch.ones(4, D)))
    for need in method.needs:  # the others are there
        for each in method.needs:
            monkeypatch.setattr(type(each), "met", lambda self, cues, missing=need: self != missing)
        with pytest.raises(ValueError, match=rf"{type(method).__name__} needs {need.word}.*pass "):
            gp.select(method, gp.Cues(torch.ones(4, D)), 2)
    if method.needs == ():
        assert gp.select(method, gp.Cues(torch.ones(4, D)), 2).k == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_a_frozen_value_with_a_docstring_that_says_what_differs(name: str) -> None:
    cls = method_class(name)
    assert cls() == cls()
    assert cls.__doc__ is not None
    assert "Differs:" in cls.__doc__
    assert "Cost:" in cls.__doc__
    cls().check_stage(cls().at)
    with pytest.raises(AttributeError):
        cls().at = gp.Input()  # type: ignore[misc]


def test_a_method_may_be_named_a_class_or_an_instance() -> None:
    expected = gp.select(gp.GreedyPrune(), cues(0), 5).rows.tolist()
    assert gp.select(gp.GreedyPrune, cues(0), 5).rows.tolist() == expected
    assert gp.select("greedyprune", cues(0), 5).rows.tolist() == expected
    with pytest.raises(ValueError, match="there is no method 'greedypune': did you mean 'greedyprune'"):
        gp.select("greedypune", cues(0), 5)
    with pytest.raises(TypeError, match="is no method"):
        gp.select(3, cues(0), 5)  # type: ignore[arg-type]


def test_random_is_seeded_uniform_and_nested() -> None:
    with pytest.raises(TypeError, match="seed='x': write an int"):
        gp.Random(seed="x")  # type: ignore[arg-type]
    draws = [gp.select(gp.Random(seed=s), cues(0), 6).rows.tolist() for s in range(400)]
    counts = torch.tensor(draws).flatten().bincount(minlength=N)
    assert int(counts.min()) > 60  # expected 100 each, standard deviation about 9
    assert int(counts.max()) < 140
    assert (
        gp.select(gp.Random(seed=3), cues(0), 9).order[:6].tolist()
        == gp.select(gp.Random(seed=3), cues(0), 6).order.tolist()
    )


@given(t=st.integers(1, 3), h=st.integers(1, 9), w=st.integers(1, 9), data=st.data())
def test_the_grid_is_spread_evenly(t: int, h: int, w: int, data: st.DataObject) -> None:
    n = t * h * w
    k = data.draw(st.integers(1, n))
    keep = gp.select("grid", gp.Cues(torch.ones(n, 2), grid=(t, h, w)), k)
    rows = keep.rows
    assert len(set(rows.tolist())) == k
    per_frame = (rows // (h * w)).bincount(minlength=t)
    assert int(per_frame.max() - per_frame.min()) <= 1
    if t == 1 and k >= 4 and h == w:  # every quadrant is seen
        y, x = rows // w, rows % w
        assert {(a >= h // 2, b >= w // 2) for a, b in zip(y.tolist(), x.tolist(), strict=True)} == {
            (False, False), (False, True), (True, False), (True, True)
        }  # fmt: skip


def test_a_square_budget_is_a_lattice_of_cell_centres() -> None:
    keep = gp.select("grid", gp.Cues(torch.ones(144, 2), grid=(1, 12, 12)), 16)
    assert keep.rows.tolist() == [y * 12 + x for y in (1, 4, 7, 10) for x in (1, 4, 7, 10)]


@given(h=st.integers(1, 9), w=st.integers(1, 9), data=st.data())
def test_pooling_is_adaptive_average_pooling(h: int, w: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, h * w))
    x = torch.randn(h * w, 3, generator=torch.Generator().manual_seed(h * 10 + w))
    keep = gp.select("pool", gp.Cues(x, grid=(1, h, w)), k)
    assert 1 <= keep.k <= k
    merged = keep.merge(x)
    image = x.T.reshape(1, 3, h, w).double()
    shapes = [(r, keep.k // r) for r in range(1, keep.k + 1) if keep.k % r == 0]
    pooled = [torch.nn.functional.adaptive_avg_pool2d(image, shape).flatten(2)[0].T for shape in shapes]
    assert any(torch.allclose(merged.double(), p, atol=1e-6) for p in pooled)
    assert len(set(keep.rows.tolist())) == keep.k  # representatives are distinct, so are their positions


@pytest.mark.parametrize("name", NAMES)
def test_methods_survive_the_way_through_json(name: str) -> None:
    method = as_method(name)
    plain = json.loads(json.dumps(to_plain(method)))
    assert as_method(plain) == method
    assert gp.select(plain, cues(0), 4).rows.tolist() == gp.select(method, cues(0), 4).rows.tolist()


THROWAWAY = '''"""Throwaway: the last k tokens."""

from dataclasses import dataclass

import torch

from greedyprune.cues import Cues
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method


@dataclass(frozen=True, kw_only=True)
class Throwaway(Method):
    """The last k tokens.

    Differs: nothing to differ from. Cost: O(k).
    """

    equivariant = False

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        order = protected_first(torch.arange(cues.n - 1, -1, -1), cues.protect)[:k]
        return Keep.from_order(order, torch.zeros(k), cues.n)
'''


def test_a_new_method_costs_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "throwaway.py").write_text(THROWAWAY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(METHODS, "throwaway", "throwaway:Throwaway")
    # The contract, the command line, the matrix and evaluations find it by its line alone.
    test_keeps_exactly_k_distinct_sorted_rows("throwaway")
    test_protected_tokens_are_kept_or_the_budget_refused("throwaway")
    test_same_input_same_selection_and_the_cues_are_left_alone("throwaway")
    test_a_method_is_a_frozen_value_with_a_docstring_that_says_what_differs("throwaway")
    test_methods_survive_the_way_through_json("throwaway")
    assert all(value == "yes" for value in matrix()["throwaway"].values())
    assert "throwaway" in usual_methods(native=False, every=True)
    with gp.prune(tiny("llava").model, "throwaway", 3) as pruned:
        tiny("llava").model(**tiny("llava").prompt(((1,),)))
        assert pruned.selections[0].rows.tolist() == [13, 14, 15]
