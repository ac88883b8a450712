"""Masks of a sequence that was cut, against the definition of each, written out for one small batch."""

import pytest
import torch
from torch import Tensor

from greedyprune.ops.cut import Cut, uncut
from greedyprune.ops.masks import (
    additive,
    allowed_by,
    anew,
    last_columns,
    last_queries,
    of_kernel,
    padded,
    padding_mask,
)

STAYS = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 1]]).bool()
"""Four tokens of the first row stay and three of the second, which so is padded by one."""
CUT = Cut.keeping(STAYS)
QUERIES = 2
LEFT = CUT.columns.shape[1]


def sees(row: int, query: int, key: int, window: int | None) -> bool:
    """True if one of the last queries may look at a key, both counted among the tokens that stay."""
    at = LEFT - QUERIES + query
    return bool(CUT.valid[row, key]) and key <= at and (window is None or at - key < window)


def allowed(window: int | None) -> Tensor:
    """(b, 1, q, l)"""
    rows = [[[sees(row, query, key, window) for key in range(LEFT)] for query in range(QUERIES)] for row in (0, 1)]
    return torch.tensor(rows)[:, None]


def test_the_cut_is_what_the_tests_take_it_for() -> None:
    assert CUT.columns[CUT.valid].tolist() == [0, 2, 3, 5, 2, 4, 5]
    assert CUT.valid.tolist() == [[True] * 4, [False, True, True, True]]


@pytest.mark.parametrize("window", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16], ids=str)
def test_a_mask_allows_what_a_window_of_the_tokens_that_stay_allows(window: int | None, dtype: torch.dtype) -> None:
    like, wanted = torch.zeros(1, 1, QUERIES, 6, dtype=dtype), allowed(window)
    made = anew(CUT, like, QUERIES, window, None)
    assert made.dtype == dtype
    assert torch.equal(allowed_by(made), wanted)
    kernel = of_kernel(CUT, QUERIES, window, dtype, flash=False)
    assert kernel is not None
    assert torch.equal(kernel, made)


def test_an_additive_mask_adds_nothing_or_forbids() -> None:
    mask = torch.tensor([True, False])
    assert additive(mask, torch.bool) is mask
    assert additive(mask, torch.float16).tolist() == [0, torch.finfo(torch.float16).min]
    assert allowed_by(additive(mask, torch.float16)).tolist() == [True, False]


def test_a_kernel_needs_a_mask_only_if_a_row_is_padded() -> None:
    whole = uncut(3, 2, None, torch.device("cpu"))
    assert of_kernel(whole, 1, None, torch.float32, flash=False) is None
    assert of_kernel(whole, 1, None, torch.float32, flash=True) is None
    flash = of_kernel(CUT, QUERIES, None, torch.float32, flash=True)
    assert flash is not None
    assert torch.equal(flash, CUT.valid)


def test_a_padding_mask_is_of_the_columns_that_stay() -> None:
    given = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    wanted = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0]])
    assert torch.equal(padding_mask(CUT, given), wanted)
    assert torch.equal(padded(CUT, given).valid, wanted.bool())
    assert padded(CUT, None) is CUT
    assert torch.equal(anew(padded(CUT, given), given, QUERIES, None, 3), wanted[:, -3:])


def test_the_last_columns_and_the_last_queries_are_taken() -> None:
    mask, padding = torch.arange(12).view(1, 1, 3, 4), torch.arange(4)[None]
    assert last_columns(mask, 2)[0, 0].tolist() == [[2, 3], [6, 7], [10, 11]]
    assert last_columns(mask, None) is mask
    assert last_columns(padding, 3).tolist() == [[1, 2, 3]]
    assert last_queries(mask, 1)[0, 0].tolist() == [[8, 9, 10, 11]]
    assert last_queries(padding, 1) is padding
