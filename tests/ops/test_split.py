"""Dividing a budget: whole numbers that sum up, close to their shares, within their bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greedyprune.ops.split import level, split


@given(total=st.integers(0, 300), shares=st.lists(st.floats(0, 9), min_size=1, max_size=8), least=st.integers(0, 2))
def test_parts_sum_up_and_are_near_their_shares(total: int, shares: list[float], least: int) -> None:
    parts = split(total, shares, least)
    assert sum(parts) == total
    assert min(parts) >= min(least, total // len(shares))
    left, whole = total - min(total, least * len(shares)), sum(shares)
    if total >= least * len(shares) and whole > 1e-6:
        assert all(abs(p - least - left * s / whole) < 1 + 1e-9 for p, s in zip(parts, shares, strict=True))


@given(data=st.data(), shares=st.lists(st.floats(0, 9), min_size=1, max_size=6))
def test_no_part_exceeds_its_room(data: st.DataObject, shares: list[float]) -> None:
    room = data.draw(st.lists(st.integers(0, 20), min_size=len(shares), max_size=len(shares)))
    total = data.draw(st.integers(0, sum(room)))
    parts = split(total, shares, at_most=room)
    assert sum(parts) == total
    assert all(0 <= p <= r for p, r in zip(parts, room, strict=True))
    with pytest.raises(ValueError, match="cannot hold"):
        split(sum(room) + 1, shares, at_most=room)


def test_examples() -> None:
    assert split(64, [54, 10]) == [54, 10]
    assert split(16, [54, 10]) == [14, 2]  # 13.5 and 2.5: the tie goes to the first
    assert split(3, [54, 10], 1) == [2, 1]
    assert split(1, [1, 1], 1) == [1, 0]
    assert split(5, [0, 0], 0) == [3, 2]
    assert split(10, [1, 1], at_most=[2, 20]) == [2, 8]


@given(data=st.data(), room=st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_equal_parts_differ_by_one_unless_a_part_is_full(data: st.DataObject, room: list[int]) -> None:
    total = data.draw(st.integers(0, sum(room)))
    parts = level(total, room)
    assert sum(parts) == total
    assert all(0 <= part <= most for part, most in zip(parts, room, strict=True))
    free = [part for part, most in zip(parts, room, strict=True) if part < most]
    assert all(part <= min(free) + 2 for part in parts if free)


def test_a_remainder_is_spread_over_equal_parts() -> None:
    assert level(10, [9] * 4) == [3, 2, 3, 2]
    assert level(3, [9] * 10) == [0, 1, 0, 0, 1, 0, 0, 0, 1, 0]
    assert level(10, [1, 9, 9]) == [1, 5, 4]
    assert level(0, []) == []
