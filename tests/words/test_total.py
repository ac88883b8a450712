"""`Total`: so many visual tokens per prompt, shared between its images by their sizes, none of which starves."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import greedyprune as gp
from greedyprune.budget import as_budgets, count
from greedyprune.plain import from_plain, to_plain
from proofs import (
    EARLY,
    IMAGE_PIECE,
    MADE,
    MODEL,
    RAGGED,
    TWO,
    WORDS,
    generate,
    same,
    turn,
)
from tiny import Tiny, tiny

FEW = {"max_new_tokens": 3}

# Sharing --------------------------------------------------------------------------------------------------------------


def fair(total: gp.Total, sizes: list[int]) -> list[Fraction]:
    """What each image would be given if tokens could be split: tries every choice of images that stay whole."""
    floors = [min(total.floor, n) for n in sizes]
    rest = total.tokens - sum(floors)
    for whole in itertools.product((False, True), repeat=len(sizes)):
        taken = sum(n - f for n, f, all_of_it in zip(sizes, floors, whole, strict=True) if all_of_it)
        weight = sum(n for n, all_of_it in zip(sizes, whole, strict=True) if not all_of_it)
        rate = Fraction(rest - taken, weight) if weight else Fraction(0)
        more = [n - f if full else rate * n for n, f, full in zip(sizes, floors, whole, strict=True)]
        fits = all(extra <= n - f for extra, n, f in zip(more, sizes, floors, strict=True))
        wants = all(rate * n >= n - f for n, f, full in zip(sizes, floors, whole, strict=True) if full)
        if sum(more) == rest and rate >= 0 and fits and wants:
            return [f + extra for f, extra in zip(floors, more, strict=True)]
    raise AssertionError("there is always one")


def rounded(ideal: list[Fraction], tokens: int) -> list[int]:
    """Whole tokens: down, and what is left one by one to the largest remainder, the earlier image first."""
    kept = [int(x) for x in ideal]
    remainders = [x - int(x) for x in ideal]
    for _ in range(tokens - sum(kept)):
        lucky = remainders.index(max(remainders))
        kept[lucky], remainders[lucky] = kept[lucky] + 1, Fraction(-1)
    return kept


prompts = st.lists(st.integers(0, 40) | st.integers(0, 3), min_size=1, max_size=6)


@given(sizes=prompts, tokens=st.integers(0, 150), floor=st.integers(0, 12))
def test_shares_are_those_of_a_slow_loop(sizes: list[int], tokens: int, floor: int) -> None:
    total = gp.Total(tokens, floor)
    floors = [min(floor, n) for n in sizes]
    if tokens < sum(floors):
        with pytest.raises(ValueError, match=rf"floor of {floor} takes {sum(floors)}.*Raise tokens, or lower floor"):
            total.share(sizes)
        return
    shares = total.share(sizes)
    assert sum(shares) == min(tokens, sum(sizes))
    assert all(f <= k <= n for f, k, n in zip(floors, shares, sizes, strict=True))
    if tokens < sum(sizes):
        assert shares == rounded(fair(total, sizes), tokens)


@given(sizes=prompts, tokens=st.integers(1, 150), floor=st.integers(0, 3))
def test_a_larger_image_never_keeps_less(sizes: list[int], tokens: int, floor: int) -> None:
    total = gp.Total(max(tokens, floor * len(sizes)), floor)
    by_size = sorted(zip(sizes, total.share(sizes), strict=True), key=lambda pair: pair[0])
    for (n, k), (m, j) in itertools.pairwise(by_size):
        assert k <= j if n < m else abs(k - j) <= 1


@pytest.mark.parametrize(
    ("total", "sizes", "shares"),
    [
        (gp.Total(64), [576], [64]),
        (gp.Total(64), [576, 576, 576], [22, 21, 21]),  # the one that is left goes to the earliest
        (gp.Total(64), [576, 64], [57, 7]),
        (gp.Total(100, floor=20), [900, 100], [74, 26]),  # 20 + 60 * 0.9 and 20 + 60 * 0.1
        (gp.Total(52, floor=2), [2, 100], [2, 50]),  # the small one is whole, what it cannot take goes to the other
        (gp.Total(20), [5, 0, 7], [5, 0, 7]),
        (gp.Total(1, floor=0), [9, 9], [1, 0]),
        (gp.Total(0, floor=0), [9, 9], [0, 0]),
        (gp.Total(64), [], []),
    ],
    ids=str,
)
def test_shares_by_hand(total: gp.Total, sizes: list[int], shares: list[int]) -> None:
    assert total.share(sizes) == shares


def test_what_is_no_total_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Total: tokens=0\.5 is no number"):
        gp.Total(0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Total: floor=True is no number"):
        gp.Total(5, floor=True)
    with pytest.raises(ValueError, match="Total: tokens=-1 cannot be negative"):
        gp.Total(-1)


def test_a_total_stands_where_the_sizes_of_all_images_are_known() -> None:
    total = gp.Total(64)
    assert as_budgets(total) == total
    for refused in (
        lambda: gp.select("random", gp.Cues(torch.ones(4, 2)), total),
        lambda: as_budgets([total, 3]),
        lambda: gp.PerLayer({2: total}),  # type: ignore[dict-item]
        lambda: gp.LayerAverage(total),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="shared between the images of a prompt"):
            refused()
    with pytest.raises(TypeError, match="576 tokens of one image do not say how many stay"):
        count(total, 576)


def test_a_total_survives_the_way_through_json() -> None:
    for total in (gp.Total(64), gp.Total(64, floor=8)):
        assert from_plain(json.loads(json.dumps(to_plain(total)))) == total


# Models ---------------------------------------------------------------------------------------------------------------

at = pytest.mark.parametrize(
    "at", [gp.Input(), gp.Layer(2), EARLY, gp.Layers((1, 3)), gp.Depths((0.25, 0.5, 0.75))], ids=str
)
models = pytest.mark.parametrize("made", [tiny("llava"), tiny("qwen2_5_vl")], ids=["llava", "qwen2_5_vl"])
ROWS = ((0,), (1, 2, 3), (), (3, 1))
TOTAL = gp.Total(16, floor=3)

pytestmark = pytest.mark.usefixtures("untouched")


def shares_of(made: Tiny, rows, total: gp.Total = TOTAL) -> list[int]:
    """What each image of a batch keeps."""
    sizes = [[piece.count(made.media[0]) for piece in made.images((row,))[1]] if row else [] for row in rows]
    return [k for each in sizes for k in total.share(each)]


@at
@models
def test_a_total_is_the_list_of_its_shares(made: Tiny, at) -> None:
    inputs, shares = made.prompt(ROWS), shares_of(made, ROWS)
    assert len(set(shares)) > 2
    with gp.prune(made.model, gp.GreedyPrune(), TOTAL, at=at) as handle:
        run, selections = generate(made.model, inputs, **FEW), handle.selections
        with handle.using(keep=shares):
            assert same(run, generate(made.model, inputs, **FEW))
            listed = handle.selections
    assert [(s.row, s.k, s.budget) for s in selections] == [
        (row, k, k) for row, k in zip((0, 1, 1, 1, 3, 3), shares, strict=True)
    ]
    assert [s.per_layer for s in selections] == [s.per_layer for s in listed]
    for row in (0, 1, 3):
        assert sum(s.k for s in selections if s.row == row) == TOTAL.tokens


@at
@models
def test_each_prompt_has_a_total_of_its_own(made: Tiny, at) -> None:
    with gp.prune(made.model, gp.GreedyPrune(), TOTAL, at=at) as handle:
        generate(made.model, made.prompt(ROWS), **FEW)
        batch = handle.selections
        for index, row in enumerate(ROWS):
            generate(made.model, made.prompt((row,)), **FEW)
            mine = [s.rows.tolist() for s in batch if s.row == index]
            assert [s.rows.tolist() for s in handle.selections] == mine


@at
@models
@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_return_sequences": 3, "do_sample": True}], ids=str)
def test_every_copy_of_a_prompt_has_the_total(made: Tiny, at, options) -> None:
    rows = ((0, 1), (2, 3))
    shares = [shares_of(made, (row,)) for row in rows]
    times = max(options.get("num_beams", 1), options.get("num_return_sequences", 1))
    with gp.prune(made.model, gp.GreedyPrune(), TOTAL, at=at) as handle:
        torch.manual_seed(0)
        generate(made.model, made.prompt(rows), **FEW, **options)
    expected = [(row * times + copy, k) for row, ks in enumerate(shares) for copy in range(times) for k in ks]
    assert [(s.row, s.k) for s in handle.selections] == expected


@at
def test_the_images_of_a_later_turn_share_a_total_again(at) -> None:
    pixels = MADE.prompt(((3,),))["pixel_values"]
    answers = []
    for first_keep, later_keep in ((gp.Total(9), gp.Total(9)), ([5, 4], 9)):
        with gp.prune(MODEL, gp.GreedyPrune(), first_keep, at=at) as handle:
            first = generate(MODEL, TWO, **FEW)
            assert [s.k for s in handle.selections] == [5, 4]
            more = {**turn(MADE, TWO, first, WORDS, IMAGE_PIECE, WORDS), "pixel_values": pixels}
            with handle.using(keep=later_keep):
                answers.append(generate(MODEL, more, past_key_values=first.cache, **FEW))
            assert [s.k for s in handle.selections] == [9]
    assert same(*answers)


def test_a_total_that_cannot_be_is_refused_before_anything_runs() -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), gp.Total(5, floor=3)) as handle:
        with pytest.raises(ValueError, match=r"16, 16 visual tokens: the floor of 3 takes 6.*Raise tokens, or lower"):
            generate(MODEL, RAGGED, **FEW)
        with handle.using(keep=gp.Total(1, floor=0)):
            generate(MODEL, RAGGED, **FEW)
            assert [s.k for s in handle.selections] == [1, 1, 0]
        with (
            handle.using(keep=gp.Total(6), protect=[None, [1, 2, 3], [0, 1, 2, 3]]),
            pytest.raises(ValueError, match="protect holds 4 tokens of image 2 and the budget keeps 3"),
        ):
            generate(MODEL, RAGGED, **FEW)


def test_a_total_of_all_tokens_changes_nothing() -> None:
    plain = generate(MODEL, RAGGED, **FEW)
    with gp.prune(MODEL, gp.GreedyPrune(), gp.Total(32)) as handle:
        kept = generate(MODEL, RAGGED, **FEW)
    assert [(s.k, s.n) for s in handle.selections] == [(16, 16)] * 3
    assert torch.equal(kept.tokens, plain.tokens)
    torch.testing.assert_close(kept.logits, plain.logits, rtol=0, atol=1e-5)
