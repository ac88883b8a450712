"""Newlines among an image's tokens: no candidates, in no budget, and one stays while a token of its row stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import greedyprune as gp
import proofs
from breadth import some
from proofs import generate, near
from tiny import tiny

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 4}
NAMES = [
    "llava_next",
    "llava_next_video",
    "llava_onevision",
    "llava_onevision several",
    "llava_onevision video",
    "llava_next_video video",
]
families = pytest.mark.parametrize("name", some(NAMES, "llava_next", "llava_onevision several"))
places = pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
ROWS = ((0,), (1, 2))
CELLS = 9
"""Tokens of an overview, which stands in front of rows of tokens."""
GRIDS = {
    "llava_next": [(3, 4), (4, 3), (6, 4)],
    "llava_next_video": [(3, 4), (4, 3), (6, 4)],
    "llava_onevision": [(3, 4), (3, 3), (5, 3)],
}
"""Rows of pictures 0, 1 and 2, and how many tokens each has in front of its newline."""


def laid(name: str, number: int, alone: bool) -> tuple[int, list[tuple[int, list[int]]]]:
    """How many placeholders a picture has, and the place of each newline with the places that it closes."""
    if name == "llava_onevision several" and not alone:  # an overview, and a newline behind it
        return CELLS + 1, [(CELLS, list(range(CELLS)))]
    if name == "llava_onevision video":  # one behind three frames of 2 x 2
        return 13, [(12, list(range(12)))]
    if name == "llava_next_video video":
        return 2 * CELLS, []
    height, width = GRIDS[name.split()[0]][number]
    firsts = [CELLS + row * (width + 1) for row in range(height)]
    return CELLS + height * (width + 1), [(first + width, list(range(first, first + width))) for first in firsts]


def every(rows: proofs.Rows) -> list[tuple[int, bool]]:
    """The pictures of a batch, and whether each is alone in its prompt."""
    return [(number, len(row) == 1) for row in rows for number in row]


@families
@places
@pytest.mark.parametrize("keep", [0, 1, 5, gp.Ratio(0.3), gp.Total(12, floor=2), 99], ids=str)
@pytest.mark.filterwarnings("ignore:keep=99 .* is more than all of them")
def test_a_newline_stays_while_a_token_of_its_row_stays(name, at, keep) -> None:
    made = tiny(name)
    with gp.prune(made.model, gp.GreedyPrune(), keep, at=at) as handle:
        run = generate(made.model, made.prompt(ROWS), **FEW)
    sizes = []
    for (number, alone), one in zip(every(ROWS), handle.selections, strict=True):
        length, rows = laid(name, number, alone)
        assert list(one.structure) == [newline for newline, _ in rows]
        sizes.append(length - len(rows))
        assert one.n == sizes[-1]
        candidates = [place for place in range(length) if place not in one.structure]
        kept = {candidates[row] for row in one.rows.tolist()}
        assert list(one.breaks) == [newline for newline, closed in rows if kept & set(closed)]
        assert one.places.tolist() == sorted(kept | set(one.breaks))
    assert [one.k for one in handle.selections] == counts(keep, sizes)
    inputs = tiny(name, "eager").prompt(ROWS)
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
    assert int(dropped.sum()) == sum(one.n + len(one.structure) - len(one.places) for one in handle.selections)
    near(run.logits, proofs.masked(tiny(name, "eager"), inputs, run.sequences, dropped, at))
    report = handle.report()
    assert (report.tokens, report.kept) == (sum(sizes), sum(one.k for one in handle.selections))


def counts(keep: Any, sizes: list[int]) -> list[int]:
    """How many candidates stay of the three images, the last two of which share a prompt."""
    if isinstance(keep, gp.Total):
        shares = [*keep.share(sizes[:1]), *keep.share(sizes[1:])]
        assert sum(shares) == 2 * keep.tokens
        assert min(shares) >= keep.floor
        return shares
    return [keep.of(n) if isinstance(keep, gp.Ratio) else min(keep, n) for n in sizes]


def taking(*rows: int) -> gp.Method:
    """A method that keeps these candidates first, and then the others from the last on."""

    def choose(cues: gp.Cues, k: int) -> gp.Keep:
        order = [*rows, *[row for row in reversed(range(cues.n)) if row not in rows]][:k]
        return gp.Keep.from_order(torch.tensor(order), torch.zeros(k), cues.n)

    return proofs.Custom(choose=choose)


@places
def test_rows_by_hand(at) -> None:
    """Picture 0 of LLaVA-NeXT: 9 tokens of an overview, then 3 rows of 4 tokens with a newline behind each."""
    made = tiny("llava_next")
    for rows, breaks in (
        ([0, 8], ()),  # of the overview: nothing is left of any row
        ([9], (13,)),
        ([12, 13], (13, 18)),  # the last of one row, the first of the next
        ([0, 9, 14, 20], (13, 18, 23)),
        ([17, 18, 19, 20], (23,)),
    ):
        with gp.prune(made.model, taking(*rows), len(rows), at=at) as handle:
            generate(made.model, made.prompt(((0,),)), **FEW)
        (one,) = handle.selections
        assert (one.structure, one.breaks) == ((13, 18, 23), breaks)
        assert one.places.tolist() == sorted([*[row + (row > 12) + (row > 16) for row in rows], *breaks])
        assert (one.n, one.k, one.to_dict()["structure_kept"]) == (21, len(rows), len(breaks))


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "llava_onevision several", "llava_onevision video"])
@pytest.mark.parametrize(
    ("keep", "at"), [(4, gp.Layers((1, 3))), (gp.PerLayer({1: gp.Ratio(0.6), 3: 2}), None)], ids=str
)
def test_a_later_cut_takes_the_newlines_of_rows_that_it_empties(name, keep, at) -> None:
    made, eager = tiny(name), tiny(name, "eager")
    seen: list[list[gp.Selection]] = []
    inputs = made.prompt(ROWS)
    with gp.prune(made.model, gp.GreedyPrune(), keep, at=at) as handle:
        run, last = generate(made.model, inputs, **FEW), handle.selections
        kinds = [one.per_layer for one in last]
        # What the first cut left is what a cut there alone leaves.
        with handle.using(keep=[per_layer[1] for per_layer in kinds], at=gp.Layer(1)):
            generate(made.model, inputs, **FEW)
            seen.append(handle.selections)
    seen.append(last)
    gone = {layer: proofs.dropped_columns(inputs["input_ids"], each) for layer, each in zip((1, 3), seen, strict=True)}
    near(run.logits, proofs.masked(eager, inputs, run.sequences, gone))
    for (number, alone), first, one in zip(every(ROWS), *seen, strict=True):
        length, rows = laid(name, number, alone)
        candidates = [place for place in range(length) if place not in one.structure]
        kept = {candidates[row] for row in one.rows.tolist()}
        assert list(one.breaks) == [newline for newline, closed in rows if kept & set(closed)]
        assert set(one.places.tolist()) < set(first.places.tolist())
    if name == "llava_next":  # where rows are short enough that the second cut empties some
        assert sum(len(one.breaks) for one in last) < sum(len(one.breaks) for one in seen[0])


@places
def test_what_is_no_candidate_cannot_be_protected_or_counted(at) -> None:
    made = tiny("llava_next")
    with gp.prune(made.model, gp.GreedyPrune(), 4, at=at) as handle:
        with handle.using(protect=[[0, 9, 20]]):
            generate(made.model, made.prompt(((0,),)), **FEW)
            assert {0, 9, 20} <= set(handle.selections[0].rows.tolist())
            assert set(handle.selections[0].breaks) >= {13, 23}
        with handle.using(protect=[[21]]), pytest.raises(ValueError, match="which has 21 visual tokens"):
            generate(made.model, made.prompt(((0,),)), **FEW)
