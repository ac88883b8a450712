"""What the wide proofs take on the library's word, held against what the unpatched model shows: where newlines are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import greedyprune as gp
import proofs
from greedyprune.models.parts import find_parts
from tiny import NAMES, tiny

pytestmark = pytest.mark.usefixtures("untouched")

NEWLINES = [name for name in NAMES if find_parts(tiny(name).model).family.newline]
THIRD = gp.Ratio(0.3)


def scattered(cues: gp.Cues, k: int) -> gp.Keep:
    """A choice that leaves no row whole, some in part, and some not at all."""
    tail = cues.n - k // 2
    order = torch.cat([torch.arange(tail, cues.n), torch.arange(0, tail, 2)])[:k]
    return gp.Keep.from_order(order, torch.zeros(k), cues.n)


def rows_of(ends: list[int]) -> list[range]:
    """The placeholders that each newline ends: a row of patches, or everything where there is one (video)."""
    if len(ends) < 2:
        return [range(end) for end in ends]
    width = ends[1] - ends[0]
    return [range(end - width + 1, end) for end in ends]


@pytest.mark.parametrize(
    ("at", "keep"),
    [(gp.Input(), THIRD), (gp.Layer(2), THIRD), (None, gp.PerLayer({1: gp.Ratio(0.6), 3: THIRD}))],
    ids=["input", "layer:2", "two cuts"],
)
@pytest.mark.parametrize("family", NEWLINES)
def test_a_newline_stays_while_a_token_of_its_row_stays(family: str, at: gp.Stage | None, keep: Any) -> None:
    made = tiny(family)
    inputs = made.prompt(((0,),))
    with gp.prune(made.model, proofs.Custom(choose=scattered), keep, at=at) as handle:
        cache = proofs.cache_of(proofs.forward(made.model, inputs, use_cache=True))
    (selection,) = handle.selections
    # Where newlines stand is seen in what enters the decoder of the unpatched model.
    tokens = proofs.states_entering(made.model, inputs, gp.Input())[proofs.is_visual(inputs["input_ids"])]
    is_newline = (tokens == find_parts(made.model).outer.image_newline).all(-1)
    ends, plain = is_newline.nonzero()[:, 0].tolist(), (~is_newline).nonzero()[:, 0]
    kept = set(plain[selection.rows].tolist())
    stay = [end for end, row in zip(ends, rows_of(ends), strict=True) if kept & set(row)]
    assert list(selection.structure) == ends
    assert list(selection.breaks) == stay
    assert selection.places.tolist() == sorted([*kept, *stay])
    gone = len(tokens) - len(kept) - len(stay)
    assert cache.layers[-1].keys.shape[-2] == inputs["input_ids"].shape[1] - gone
    if len(ends) > 1:  # a row in part and a row that is gone are among them
        assert 0 < len(stay) < len(ends)
        assert not any(set(row) <= kept for row in rows_of(ends))
