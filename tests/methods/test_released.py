"""Our methods keep what their released code kept: `tests/tools/released.json` has the selections, and who differs."""

from __future__ import annotations

import pytest
import torch

import greedyprune as gp
from released import Compared, compared, draw, ours, sources

COMPARED = compared()


def merged(keep: gp.Keep) -> list[list[int]]:
    """The tokens that went into each kept row of more than one, ascending."""
    assert keep.weights is not None
    parts = [(row > 0).nonzero()[:, 0].tolist() for row in keep.weights]
    return [part for part in parts if len(part) > 1]


def differences(found: Compared, selection: dict) -> list[str]:
    """What our selection has otherwise than the recorded one."""
    keep, wrong = ours(found, selection), []
    theirs = selection.get("order", selection.get("rows"))
    if "order" in selection and keep.order.tolist() != theirs:
        wrong.append("order")
    if "groups" in selection:
        together = sorted(sorted(group) for group in selection["groups"] if len(group) > 1)
        wrong += ["groups"] * (sorted(merged(keep)) != together)
        if theirs is not None:  # the rows that are whole, and the targets of the others
            theirs = sorted(theirs + [group[0] for group in selection["groups"]])
    if "near_rows" in selection:
        assert keep.weights is not None
        near = dict(zip(selection["order"], selection["near_rows"], strict=True))
        rows = zip(keep.rows.tolist(), keep.weights, strict=True)
        added = {row: [i for i in (weights > 0).nonzero()[:, 0].tolist() if i != row] for row, weights in rows}
        wrong += ["near_rows"] * (added != near)
    if theirs is not None and not set(theirs) <= set(keep.rows.tolist()):
        wrong.append("rows")
    if theirs is not None and len(theirs) != keep.k and "fewer" not in sources()[found.method]:
        wrong.append("number of rows")
    return wrong


@pytest.mark.parametrize("found", COMPARED, ids=str)
def test_ours_keeps_what_the_released_code_kept(found) -> None:
    if found.shared is None:
        wrong = {place: differences(found, each) for place, each in enumerate(found.selections)}
        assert {place: what for place, what in wrong.items() if what} == {}
        return
    both = []
    for selection in found.selections:
        theirs = selection.get("order", selection.get("rows"))
        both.append(len(set(theirs) & set(ours(found, selection).rows.tolist())))
    assert both == found.shared


def test_every_source_is_named_and_has_twelve_selections() -> None:
    for name, source in sources().items():
        assert {"repository", "commit", "file"} <= set(source), name
        assert len(source["commit"]) == 40
        assert len(source["selections"]) >= 12
        assert any("shared" not in each for each in source["compared"]) or "differs" in source["compared"][0]
        for each in source["compared"]:
            assert ("shared" in each) == ("differs" in each)
    assert len(sources()) >= 12


@pytest.mark.parametrize("n", sorted({each["n"] for found in COMPARED for each in found.selections}))
def test_the_cues_are_whole_numbers_and_attention_has_no_ties(n) -> None:
    seeds = sorted({each["seed"] for found in COMPARED for each in found.selections if each["n"] == n})
    for seed in seeds:
        drawn = draw(n, seed)
        for look in (drawn.heads, drawn.others):
            assert look.mean(0).unique().numel() == n
            assert torch.equal(look.mean(0).double(), look.double().mean(0))
        assert torch.equal((drawn.rows * 64).round(), drawn.rows * 64)


def test_the_first_values_of_a_seed_are_the_same_everywhere() -> None:
    drawn = draw(144, 0)
    assert (drawn.rows[0, :4] * 64).tolist() == [-1, -40, 80, -101]
    assert (drawn.heads[0, :3] * 2**30).tolist() == [190120, 216400, 64070]
    assert (drawn.norm[:3] * 64).tolist() == [33, 44, 59]
