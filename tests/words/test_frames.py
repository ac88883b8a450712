"""`PerFrame`: a budget for every frame of a clip, which the method sees one at a time; no model anywhere."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
import greedyprune as gp
from greedyprune.budget import as_budgets, count, parse_budget
from greedyprune.cues import Keys
from greedyprune.naming import as_method, method_class
from greedyprune.plain import from_plain, to_plain
from greedyprune.registry import METHODS

T, H, W, D = 3, 2, 4, 8
SIZE = H * W
ACROSS = {name for name in METHODS if method_class(name).compares_frames}
EACH = [name for name in sorted(METHODS) if name not in ACROSS]
"""Methods to which one frame says something."""
WORDS = Keys("decoder", of="text")


def clip(seed: int, kind: str = "clustered") -> gp.Cues:
    """Everything a method may ask for, of a clip."""
    x, _ = cases.draw(kind, T * SIZE, D, seed)
    text = torch.randn(5, D, generator=torch.Generator().manual_seed(seed + 1))
    relevance = torch.rand(T * SIZE, generator=torch.Generator().manual_seed(seed + 3))
    return cases.cues(x, text, seed, grid=(T, H, W), relevance=relevance)


def frame(cues: gp.Cues, number: int) -> gp.Cues:
    """One frame of it, taken out by hand."""
    first, end = number * SIZE, (number + 1) * SIZE
    return gp.Cues(
        cues.features[first:end],
        text=cues.text,
        question=cues.question,
        grid=(1, H, W),
        attention=cues.attention[first:end],
        keys=cues.keys[first:end],
        encoded=cues.encoded[first:end],
        relevance=cues.relevance[first:end],
        norm=cues.norm,
        more={WORDS: cues.more[WORDS], gp.Change(): cues.more[gp.Change()][first:end]},
    )


@pytest.mark.parametrize("name", EACH)
@settings(deadline=None)
@given(seed=st.integers(0, 5000), kind=st.sampled_from(cases.KINDS), k=st.integers(0, SIZE + 2))
def test_a_clip_is_its_frames_one_by_one(name: str, seed: int, kind: str, k: int) -> None:
    method, cues = as_method(name), clip(seed, kind)
    keep = gp.select(method, cues, gp.PerFrame(k))
    alone = [gp.select(method, frame(cues, number), k) for number in range(T)]
    assert keep.n == T * SIZE
    if method.exact:
        assert keep.rows.div(SIZE, rounding_mode="floor").bincount(minlength=T).tolist() == [min(k, SIZE)] * T
    assert keep.rows.tolist() == [row + i * SIZE for i, one in enumerate(alone) for row in one.rows.tolist()]
    assert keep.order.tolist() == [row + i * SIZE for i, one in enumerate(alone) for row in one.order.tolist()]
    assert torch.equal(keep.gains, torch.cat([one.gains for one in alone]))
    assert int(keep.before_fallback) == sum(int(one.before_fallback) for one in alone)
    parts = [one.merge(frame(cues, number).features) for number, one in enumerate(alone)]
    merged = keep.merge(cues.features)  # of rows as large as 1e30, a sum over zeros elsewhere differs in its last bits
    torch.testing.assert_close(merged, torch.cat(parts), rtol=1e-5, atol=0 if kind == "extreme" else 1e-6)


def test_who_was_passed_over_for_whom_is_told_in_the_numbers_of_the_clip() -> None:
    x = torch.eye(4)[[0, 0, 1, 1] * 2]  # in each frame token 1 repeats token 0, and 3 repeats 2
    cues = gp.Cues(x, text=torch.ones(1, 4), grid=(2, 1, 4))
    keep = gp.select(gp.GreedyPrune(tau=0.5, fallback="none"), cues, gp.PerFrame(3))
    assert keep.rows.tolist() == [0, 2, 4, 6]
    assert keep.suppressed_by is not None
    assert keep.suppressed_by.tolist() == [-1, 0, -1, 2, -1, 4, -1, 6]


def test_protected_tokens_stay_in_their_frames() -> None:
    cues = replace(clip(0), protect=torch.tensor([1, SIZE + 3, SIZE + 5]))
    keep = gp.select(gp.GreedyPrune(), cues, gp.PerFrame(2))
    assert {1, SIZE + 3, SIZE + 5} <= set(keep.rows.tolist())
    assert keep.k == 2 * T
    with pytest.raises(ValueError, match="protect holds 2 tokens and the budget keeps 1"):
        gp.select(gp.GreedyPrune(), cues, gp.PerFrame(1))


@pytest.mark.parametrize("grid", [(1, 4, 6), None])
def test_an_image_is_one_frame(grid) -> None:
    cues = replace(clip(3), grid=grid)
    one, whole = gp.select(gp.GreedyPrune(), cues, gp.PerFrame(5)), gp.select("greedyprune", cues, 5)
    assert one.order.tolist() == whole.order.tolist()
    assert one.certificate == whole.certificate


def test_methods_that_compare_frames_are_known() -> None:
    """Those built of what tells the frames of a clip apart."""
    reading = {name for name in METHODS if "greedyprune.ops.video" in inspect.getsource(_module(name))}
    assert reading == ACROSS


def _module(name: str):
    return inspect.getmodule(method_class(name))


# The value ------------------------------------------------------------------------------------------------------------


def test_how_many_stay() -> None:
    assert gp.PerFrame(5).of(24, 3) == 15
    assert gp.PerFrame(9).of(24, 3) == 24
    assert gp.PerFrame(gp.Ratio(0.3)).of(24, 3) == 6  # 2.4 of 8, thrice; of the whole clip it would be 7
    assert gp.PerFrame(gp.Ratio(0.01)).of(24, 3) == 3
    with pytest.raises(TypeError, match=r"is that of one frame, so 24 tokens do not say how many stay: PerFrame\.of"):
        count(gp.PerFrame(5), 24)


@pytest.mark.parametrize("budget", [gp.PerFrame(8), gp.PerFrame(gp.Ratio(0.25))], ids=str)
def test_it_is_written_and_read(budget: gp.PerFrame) -> None:
    assert parse_budget(str(budget)) == parse_budget(f" {budget} ".upper()) == budget
    assert from_plain(json.loads(json.dumps(to_plain(budget)))) == budget
    assert as_budgets(budget) == budget
    assert as_budgets([3, budget, gp.Ratio(0.5)]) == (3, budget, gp.Ratio(0.5))


@pytest.mark.parametrize("word", ["/frame", "0.5/frame", "-1/frame", "8/frames", "total:8/frame", "8/frame/frame"])
def test_what_cannot_be_read_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"is no budget: .*8/frame for 8 of every frame"):
        parse_budget(word)


def test_it_holds_a_plain_budget_and_stands_alone() -> None:
    with pytest.raises(TypeError, match=r"keep=0\.5 is ambiguous"):
        gp.PerFrame(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be negative"):
        gp.PerFrame(-1)
    with pytest.raises(TypeError, match="shared between the images of a prompt"):
        gp.PerFrame(gp.Total(8))  # type: ignore[arg-type]
    for refused in (
        lambda: gp.PerFrame(gp.PerFrame(8)),  # type: ignore[arg-type]
        lambda: gp.PerLayer({2: gp.PerFrame(8)}),
        lambda: gp.LayerAverage(gp.PerFrame(8)),
    ):
        with pytest.raises(TypeError, match=r"is a budget per frame of a clip: here write an int or Ratio\(0\.25\)"):
            refused()
