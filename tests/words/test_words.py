"""The words of the house: budgets, stages, cues, keeps, the registry."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import greedyprune as gp
from greedyprune.budget import as_budget, as_budgets, count, parse_budget
from greedyprune.plain import from_plain, to_plain
from greedyprune.stages import parse_stage


def test_a_bare_float_says_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"keep=0\.25 is ambiguous: write Ratio\(0\.25\) to keep that share, or an int"):
        as_budget(0.25)


@pytest.mark.parametrize("bad", [None, "64", True, [3], torch.ones(2)])
def test_what_is_no_budget_is_refused(bad: object) -> None:
    with pytest.raises(TypeError, match=r"is no budget: write an int .*Ratio\(0\.25\).*Total\(64\)"):
        as_budget(bad)


def test_negative_counts_and_shares_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"keep=-3.*cannot be negative"):
        as_budget(-3)
    for share in (-0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            gp.Ratio(share)
    with pytest.raises(TypeError, match="number between 0 and 1"):
        gp.Ratio("0.5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"keep=\[\]"):
        as_budgets([])


@given(st.integers(0, 5000), st.floats(0, 1))
def test_a_ratio_rounds_half_up_and_keeps_at_least_one(n: int, share: float) -> None:
    kept = count(gp.Ratio(share), n)
    assert 0 <= kept <= n
    assert kept == 0 or share > 0
    assert kept >= 1 or share == 0 or n == 0
    assert abs(kept - share * n) <= 0.5 + 1e-9 or kept == 1


def test_the_ratios_of_the_tables() -> None:
    assert [count(gp.Ratio(r), 576) for r in (1 / 3, 1 / 9, 1 / 18)] == [192, 64, 32]
    assert [count(gp.Ratio(r), 144) for r in (1 / 4, 1 / 9)] == [36, 16]
    assert count(700, 576) == 576


def test_budgets_and_stages_are_read_as_a_command_line_writes_them() -> None:
    assert parse_budget("64") == 64
    assert parse_budget(" 25% ") == parse_budget("1/4") == parse_budget("2/8") == gp.Ratio(0.25)
    assert parse_budget("1/4/frame") == gp.PerFrame(gp.Ratio(0.25))
    for word in ("64 total", "total:64", " Total:64 ", "total:64:1"):
        assert parse_budget(word) == gp.Total(64)
    assert parse_budget("total:64:8") == gp.Total(64, floor=8)
    for budget in (64, gp.Ratio(0.25), gp.Total(64), gp.Total(64, floor=8)):
        assert parse_budget(str(budget)) == budget
    for bad in (
        "0.25",
        "-3",
        "abc",
        "250%",
        "",
        "nan%",
        "total",
        "total:",
        "total:-3",
        "25% total",
        "64 totals",
        "1/0",
        "2/1",
        "-1/4",
        "1/4/9",
    ):
        with pytest.raises(ValueError, match="is no budget"):
            parse_budget(bad)
    assert parse_stage("input") == gp.Input()
    assert parse_stage("Layer:2") == gp.Layer(2)
    for bad in ("layer", "layer:x", "layer:-1", "encoder", "input:2", "depths:2", "depths:a"):
        with pytest.raises(ValueError, match="names no stage"):
            parse_stage(bad)
    for stage in (gp.Depths((0.25, 0.5)), gp.Input(), gp.Layer(7), gp.Layer(3, early=True)):
        assert parse_stage(str(stage)) == stage
    with pytest.raises(ValueError, match="0 or more"):
        gp.Layer(-1)
    with pytest.raises(TypeError, match="an int"):
        gp.Layer(1.5)  # type: ignore[arg-type]


def test_cues_check_their_shapes() -> None:
    with pytest.raises(ValueError, match=r"features has shape \(3,\)"):
        gp.Cues(torch.ones(3))
    with pytest.raises(ValueError, match=r"type torch\.int64"):
        gp.Cues(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="torch tensor"):
        gp.Cues([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"text has shape \(1, 3\), but the visual rows have width 2"):
        gp.Cues(torch.ones(4, 2), text=torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"grid=\(1, 2, 3\) does not hold 4 tokens"):
        gp.Cues(torch.ones(4, 2), grid=(1, 2, 3))
    with pytest.raises(ValueError, match=r"norm has shape \(3,\): the rows have width 2"):
        gp.Cues(torch.ones(4, 2), norm=torch.ones(3))
    for rows in ([4], [-1], [1, 1], [2, 0]):
        with pytest.raises(ValueError, match=r"protect=.*distinct, ascending, from 0 to 3"):
            gp.Cues(torch.ones(4, 2), protect=torch.tensor(rows))
    with pytest.raises(ValueError, match="protect has shape"):
        gp.Cues(torch.ones(4, 2), protect=torch.ones(1))


def test_a_keep_cuts_any_tensor_with_its_rows() -> None:
    order = torch.tensor([4, 0, 2])
    keep = gp.Keep.from_order(order, torch.tensor([3.0, 2.0, 1.0]), 5)
    assert keep.rows.tolist() == [0, 2, 4]
    assert keep.order.tolist() == [4, 0, 2]
    x = torch.arange(10).view(5, 2)
    assert keep(x).tolist() == [[0, 1], [4, 5], [8, 9]]
    assert keep(x.T, dim=1).tolist() == [[0, 4, 8], [1, 5, 9]]
    assert keep(x.T, dim=-1).tolist() == [[0, 4, 8], [1, 5, 9]]
    with pytest.raises(ValueError, match="2 rows along dim 1, this decision is about 5"):
        keep(x, dim=1)


def test_a_decision_about_what_a_decision_left_is_told_in_the_first_numbers() -> None:
    first = gp.Keep.from_order(torch.tensor([6, 2, 4]), torch.tensor([3.0, 2.0, 1.0]), 8)
    second = gp.Keep.from_order(torch.tensor([2, 0]), torch.tensor([5.0, 4.0]), 3).of(first)
    assert (second.n, second.rows.tolist(), second.order.tolist()) == (8, [2, 6], [6, 2])
    assert second.gains.tolist() == [5.0, 4.0]
    x = torch.arange(8)
    assert torch.equal(second(x), torch.tensor([2, 6]))


def test_a_budget_of_none_of_them_and_of_all_of_them() -> None:
    cues = gp.Cues(torch.randn(6, 3), text=torch.randn(2, 3))
    assert gp.select("greedyprune", cues, 0).rows.tolist() == []
    assert gp.select("greedyprune", cues, gp.Ratio(1.0)).rows.tolist() == list(range(6))
    assert gp.select(gp.GreedyPrune(tau=-1.0, fallback="none"), cues, 9).rows.tolist() == list(range(6))
    assert gp.select(gp.GreedyPrune(tau=-1.0, fallback="none"), cues, 5).k == 1


def test_values_survive_the_way_through_json() -> None:
    values = [
        64,
        gp.Ratio(1 / 9),
        gp.PerLayer({8: gp.Ratio(0.5), 2: 100}),
        gp.Input(),
        gp.Layer(2, early=True),
        gp.GreedyPrune(tau=gp.Exact(), fallback="relax", preprocess="center", text="question_max"),
        gp.GreedyPrune(tau=0.9, at=gp.Input()),
        [3, gp.Ratio(0.5)],
    ]
    for value in values:
        assert from_plain(json.loads(json.dumps(to_plain(value)))) == value
    assert from_plain({"type": "greedyprune"}) == gp.GreedyPrune()
    with pytest.raises(ValueError, match="no type 'greedyprun': did you mean 'greedyprune'"):
        from_plain({"type": "greedyprun"})
    with pytest.raises(ValueError, match="no option of 'greedyprune' 'taus': did you mean 'tau'"):
        from_plain({"type": "greedyprune", "taus": 1})
    for nameless in ({}, {"type": ["a"]}, {"q": 0.5}):
        with pytest.raises(ValueError, match="names no type"):
            from_plain(nameless)
    with pytest.raises(TypeError, match="cannot be written"):
        to_plain(object())


@pytest.mark.parametrize(
    "make", [gp.PerFrame, gp.LayerAverage, lambda keep: gp.PerLayer({2: keep})], ids=["frame", "average", "layer"]
)
def test_a_number_of_any_kind_of_integer_is_an_int_in_every_budget(make: Any) -> None:
    plain, given = make(5), make(torch.tensor(5))
    assert given == plain
    assert hash(given) == hash(plain)
    assert json.dumps(to_plain(given)) == json.dumps(to_plain(plain))


def test_per_layer_budgets_check_their_layers() -> None:
    assert list(gp.PerLayer({16: 5, 8: gp.Ratio(0.5)}).schedule) == [8, 16]
    assert hash(gp.PerLayer({8: 5})) == hash(gp.PerLayer({8: 5}))
    with pytest.raises(ValueError, match="0 is no decoder layer"):
        gp.PerLayer({0: 5})
    with pytest.raises(TypeError, match="ambiguous"):
        gp.PerLayer({2: 0.5})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="write a dict"):
        gp.PerLayer({})
