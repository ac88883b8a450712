"""A short run of `fuzz.py`: every method and every kind of rows gives right decisions, or refusals in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

import fuzz
import greedyprune as gp
from greedyprune.registry import METHODS

TURN = len(fuzz.NAMES)  # methods take turns case by case, kinds whenever all methods had theirs
DIAGONALS = 10


def test_random_cues_give_right_decisions_or_refusals_in_words() -> None:
    cases = [fuzz.draw(i * (TURN + 1) + TURN * shift) for shift in range(DIAGONALS) for i in range(TURN)]
    assert {type(case.method) for case in cases} == {type(fuzz.as_method(name)) for name in METHODS}
    assert {case.kind for case in cases} == set(fuzz.KINDS)
    assert len(fuzz.KINDS) >= 20
    right: Counter[type] = Counter()
    before = fuzz.COMPARED[True]
    for case in cases:
        outcome, why = fuzz.run(case)
        assert outcome != "failed", f"{case}: {why}; repeat it: python tests/tools/fuzz.py --only {case.number}"
        right[type(case.method)] += outcome == "right"
    assert set(right) == {type(case.method) for case in cases if right[type(case.method)]}, "a method was only refused"
    assert right.total() > len(cases) / 2
    assert fuzz.COMPARED[True] > before


def raising(error: Exception) -> Any:
    raise error


@pytest.fixture
def case() -> fuzz.Case:
    """One that is right, and keeps three tokens."""
    drawn = map(fuzz.draw, range(0, 100 * TURN, TURN))
    return next(each for each in drawn if fuzz.run(each)[0] == "right" and not each.framed and each.keep == 3)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda keep: replace(keep, rows=keep.rows.flip(0)), "not distinct, ascending and in range"),
        (lambda keep: replace(keep, rows=keep.rows[:2], order=keep.order[:2], gains=keep.gains[:2]), "2 rows where 3"),
        (lambda keep: replace(keep, order=keep.order[:2]), "order has other rows"),
        (lambda keep: replace(keep, gains=keep.gains + float("nan")), "gains are"),
        (lambda keep: replace(keep, gains=torch.rand(3)), "gains differ when run again"),
        (lambda keep: raising(IndexError("index 9 is out of bounds")), "raw IndexError: index 9"),
        (lambda keep: raising(ValueError("")), "an error that names nothing"),
        (lambda keep: raising(NotImplementedError()), "an error that names nothing"),
    ],
)
def test_what_is_wrong_fails(spoil: Any, why: str, case: fuzz.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    select = fuzz.Case.select
    monkeypatch.setattr(fuzz.Case, "select", lambda self, cues: spoil(select(self, cues)))
    outcome, found = fuzz.run(case)
    assert outcome == "failed"
    assert why in found


def test_a_case_is_drawn_from_its_number_alone(case: fuzz.Case) -> None:
    first, second = fuzz.draw(case.number), fuzz.draw(case.number)
    assert str(first) == str(second)
    a, b = first.make(), second.make()
    assert isinstance(a, gp.Cues)
    assert torch.equal(a.features, b.features)
