"""Where a question stands in a prompt, where kept tokens stand in an image, and what a `detail` keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import greedyprune as gp

IMAGE, END, ASSISTANT = 1, 2, (7, 8)


def rows(ids: list[int], end: Any = END, **more: Any) -> list[list[int]]:
    given = torch.tensor(ids)
    return [each.tolist() for each in gp.question_rows(given, given == IMAGE, end, **more)[0]]


def test_a_question_is_the_text_behind_the_image_up_to_the_end_of_its_turn() -> None:
    assert rows([5, 1, 1, 1, 3, 4, END, 6, 9]) == [[4, 5]]
    assert rows([5, 1, 1, 3, 4]) == [[3, 4]]  # a turn without an end
    assert rows([3, 4, 1, 1, END, 9]) == [[0, 1]]  # no text behind it: the turn's own text
    assert rows([9, END, 3, 4, 1, 1, END, 9]) == [[2, 3]]  # and not that of an earlier turn
    assert rows([3, 4, END, 9]) == []  # no image, no question
    assert rows([1, 1]) == [[]]


def test_images_of_one_turn_share_its_question() -> None:
    assert rows([1, 1, 3, 1, 1, 4, 5, END, 9, 9]) == [[5, 6], [5, 6]]
    assert rows([1, 3, 4, END, 9, END, 1, 1, 5, END, 6]) == [[1, 2], [8]]


def test_an_image_may_stand_in_several_runs() -> None:
    ids, image = torch.tensor([1, 1, 3, 1, 4, 1, 5, END, 6]), torch.tensor([0, 0, -1, 0, -1, 1, -1, -1, -1])
    assert [each.tolist() for each in gp.question_rows(ids, image, END)[0]] == [[6], [6]]
    assert len(gp.question_rows(ids, ids == IMAGE, END)[0]) == 3


def test_a_turn_may_end_with_several_tokens_or_one_of_several() -> None:
    assert rows([1, 1, 3, 7, 4, 7, 8, 5, 6], end=[ASSISTANT]) == [[2, 3, 4]]
    assert rows([1, 1, 3, 7, 4, 7, 8, 5, END], end=[END, ASSISTANT]) == [[2, 3, 4]]
    assert rows([1, 1, 3, END, 4, 7, 8, 5, 6], end=[END, ASSISTANT]) == [[2]]
    assert rows([1, 3, 7], end=[ASSISTANT]) == [[1, 2]]  # a marker that is cut off is none


def test_padding_is_no_text() -> None:
    ids = torch.tensor([[0, 0, 5, 1, 1, 3, END, 6], [5, 1, 1, 3, 4, 0, 0, 0]])
    found = gp.question_rows(ids, ids == IMAGE, END, padding=ids == 0)
    assert [[each.tolist() for each in prompt] for prompt in found] == [[[5]], [[3, 4]]]
    assert [[each.tolist() for each in prompt] for prompt in gp.question_rows(ids, ids == IMAGE, END)] == [
        [[5]],
        [[3, 4, 5, 6, 7]],
    ]


@given(
    turns=st.lists(st.lists(st.sampled_from([1, 1, 3, 4, 5, 7, 8]), min_size=1, max_size=8), min_size=1, max_size=4),
    later=st.lists(st.sampled_from([1, 2, 3, 4, 7, 8]), max_size=12),
    end=st.sampled_from([END, [END, ASSISTANT]]),
)
def test_later_turns_change_nothing(turns: list[list[int]], later: list[int], end: Any) -> None:
    chat = [number for turn in turns for number in [*turn, END]]
    before = rows(chat, end)
    after = rows(chat + later, end)
    assert after[: len(before)] == before


@given(ids=st.lists(st.sampled_from([1, 1, 2, 3, 4]), min_size=1, max_size=20))
def test_a_question_is_text_alone_in_ascending_order_and_never_another_turns(ids: list[int]) -> None:
    given = torch.tensor(ids)
    runs = [at for at, number in enumerate(ids) if number == IMAGE and (at == 0 or ids[at - 1] != IMAGE)]
    found = rows(ids)
    assert len(found) == len(runs)
    for start, columns in zip(runs, found, strict=True):
        assert columns == sorted(set(columns))
        assert not bool(torch.isin(given[columns], torch.tensor([IMAGE, END])).any())
        for column in columns:
            assert END not in ids[min(start, column) : max(start, column)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": []}, r"end=\[\] ends no turn: write the id"),
        ({"end": [[]]}, r"ends no turn"),
        ({"end": None}, r"end=None ends no turn"),
        ({"end": "</s>"}, r"end='</s>' ends no turn"),
        ({"end": True}, r"end=True ends no turn"),
        ({"visual": torch.ones(3)}, r"visual has shape \(3,\) and type torch\.float32: pass one bool per id, \(4,\)"),
        ({"visual": torch.ones(4)}, r"visual has shape \(4,\) and type torch\.float32"),
        ({"padding": torch.zeros(4, dtype=torch.int64)}, r"padding has shape \(4,\) and type torch\.int64"),
        ({"ids": torch.ones(4)}, r"ids has shape \(4,\) and type torch\.float32: pass \(q,\) or \(b, q\) token ids"),
        ({"ids": torch.ones(1, 1, 4, dtype=torch.int64)}, r"ids has shape \(1, 1, 4\)"),
    ],
)
def test_what_does_not_fit_is_told(change: dict[str, Any], message: str) -> None:
    ids = torch.tensor([1, 3, 4, 2])
    with pytest.raises(ValueError, match=message):
        gp.question_rows(**({"ids": ids, "visual": ids == 1, "end": END} | change))
    with pytest.raises(TypeError, match=r"ids is a list: pass a \(q,\) or \(b, q\) int64 torch tensor"):
        gp.question_rows([1, 2], ids == 1, END)  # type: ignore[arg-type]


@given(t=st.integers(1, 4), h=st.integers(1, 5), w=st.integers(1, 5), data=st.data())
def test_positions_lead_back_to_the_tokens(t: int, h: int, w: int, data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.integers(0, t * h * w - 1)))
    tokens = torch.tensor(sorted(kept), dtype=torch.int64)
    places = gp.grid_positions((t, h, w), tokens)
    assert places.shape == (len(kept), 3)
    assert places.dtype == torch.int64
    every = torch.cartesian_prod(torch.arange(t), torch.arange(h), torch.arange(w)).reshape(-1, 3)
    assert torch.equal(places, every[tokens])


def test_positions_are_those_of_tokens_that_are_there() -> None:
    assert gp.grid_positions((2, 3, 4), torch.tensor([0, 5, 12, 23])).tolist() == [
        [0, 0, 0], [0, 1, 1], [1, 0, 0], [1, 2, 3]
    ]  # fmt: skip
    for bad in ([24], [-1, 3]):
        with pytest.raises(ValueError, match=r"rows holds tokens .*: a grid of \(2, 3, 4\) has 24"):
            gp.grid_positions((2, 3, 4), torch.tensor(bad))
    with pytest.raises(ValueError, match=r"rows has shape \(1,\) and type torch\.float32"):
        gp.grid_positions((2, 3, 4), torch.ones(1))
    with pytest.raises(ValueError, match=r"\(t, h, w\) needs"):
        gp.grid_positions((2, 3, 0), torch.tensor([0]))


def test_a_detail_is_a_budget() -> None:
    assert gp.keep_of_detail("low") == 64
    assert gp.keep_of_detail("auto") == gp.keep_of_detail(None) == gp.Ratio(0.25)
    for n in (1, 64, 576, 3000):
        low, auto, high = (gp.count(gp.keep_of_detail(detail), n) for detail in ("low", "auto", "high"))
        assert high == n
        assert low <= 64
        assert auto <= high
    assert set(gp.DETAIL) == {"low", "auto", "high"}
    for bad in ("Low", "original", ""):
        with pytest.raises(ValueError, match=rf"detail='{bad}' is unknown: choose one of low, auto, high"):
            gp.keep_of_detail(bad)
