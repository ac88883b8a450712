"""Choosing on plain tensors: batches, frames, counts known before, and a selection that never fails on data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import greedyprune as gp
from greedyprune.naming import as_method, method_class
from greedyprune.registry import METHODS
from greedyprune.testing import _parts, example_cues

NAMES = sorted(METHODS)
EACH = [name for name in NAMES if not method_class(name).compares_frames]
INEXACT: list[Any] = [
    "pool",
    gp.DART(exact_budget=False),
    gp.GreedyPrune(fallback="none", tau=0.1),
    gp.PruMerge(adaptive=True),
    gp.PruMergePlus(adaptive=True),
]


def sized(method: Any, seed: int, n: int) -> gp.Cues:
    """The first n tokens of an example, as one row of cells."""
    cues = example_cues(as_method(method), seed)
    more = {need: v if getattr(need, "of", "") == "text" else v[:n] for need, v in cues.more.items()}
    relevance = None if cues.relevance is None else cues.relevance[:n]
    return replace(cues, features=cues.features[:n], grid=(1, 1, n), tiles=None, relevance=relevance, more=more)


@pytest.mark.parametrize("method", [*NAMES, *INEXACT[1:]], ids=str)
def test_a_batch_is_chosen_as_one_by_one(method: Any) -> None:
    cues = [sized(method, seed, n) for seed, n in enumerate((30, 48, 30, 7, 1, 48))]
    keep: list[Any] = [9, gp.Ratio(0.25), 0, 7, 1, 100]
    found = gp.select_batch(method, cues, keep)
    assert [_parts(each) for each in found] == [
        _parts(gp.select(method, one, k)) for one, k in zip(cues, keep, strict=True)
    ]


def test_a_method_may_choose_for_a_batch_at_once() -> None:
    calls: list[list[int]] = []

    class Together(gp.DivPrune):
        def select_batch(self, cues: Any, k: Any) -> list[gp.Keep]:
            calls.append(list(k))
            return super().select_batch(cues, k)

    cues = [gp.Cues(torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))) for seed in range(3)]
    found = gp.select_batch(Together, cues, [3, 0, gp.Ratio(0.5)])
    assert calls == [[3, 4]]  # nothing is to be chosen for the second
    assert [keep.k for keep in found] == [3, 0, 4]
    framed = gp.select(Together, replace(cues[0], grid=(2, 2, 2)), gp.PerFrame(1))
    assert calls == [[3, 4], [1, 1]]  # frames of a clip are a batch too
    assert framed.k == 2


def test_what_select_batch_returns_is_checked() -> None:
    class Wrong(gp.DivPrune):
        answer: Any = ()

        def select_batch(self, cues: Any, k: Any) -> list[gp.Keep]:
            return self.answer

    cues = [gp.Cues(torch.ones(4, 2))] * 2
    for answer in ((), [gp.Keep.everything(4)], None):
        Wrong.answer = answer
        with pytest.raises(TypeError, match=r"Wrong\.select_batch\(\) must return a list of 2 Keeps, one per image"):
            gp.select_batch(Wrong, cues, [2, 2])
    Wrong.answer = [gp.Keep.everything(4)] * 2
    with pytest.raises(ValueError, match=r"Wrong\.select\(\) kept 4 of 4 tokens where 2 were asked for"):
        gp.select_batch(Wrong, cues, [2, 2])


@pytest.mark.parametrize("text", ["6", "1/4", "25%", "2/frame"])
def test_a_budget_may_be_its_text(text: str) -> None:
    cues, keep = replace(sized("divprune", 0, 24), grid=(3, 1, 8)), gp.parse_keep(text)
    assert gp.select("divprune", cues, text).order.tolist() == gp.select("divprune", cues, keep).order.tolist()
    assert gp.kept_count("divprune", text, 24, (3, 1, 8)) == 6
    with pytest.raises(TypeError, match="is shared between the images"):
        gp.select("divprune", cues, "total:6")


def test_wrong_arguments_are_told() -> None:
    cues = gp.Cues(torch.ones(4, 2))
    for on_error in ("raise", "even"):
        with pytest.raises(ValueError, match="there are 2 images and 1 budgets: pass one budget for every image"):
            gp.select_batch("divprune", [cues, cues], [2], on_error=on_error)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no method 'divpurne': did you mean"):
            gp.select("divpurne", cues, 2, on_error=on_error)  # type: ignore[arg-type]
        for bad in (0.5, b"2", None, gp.Total(3), gp.LayerAverage(2)):
            with pytest.raises(TypeError, match="write"):
                gp.select("divprune", cues, bad, on_error=on_error)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="cannot be negative"):
            gp.select("divprune", cues, -1, on_error=on_error)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"cues is a Tensor: wrap the rows, Cues\(features\)"):
            gp.select("divprune", torch.ones(4, 2), 2, on_error=on_error)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"EVS compares the frames of a clip, so it cannot choose with PerFrame"):
            gp.select("evs", cues, gp.PerFrame(2), on_error=on_error)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_error='zero' is unknown: choose one of raise, even"):
        gp.select("divprune", cues, 2, on_error="zero")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", EACH)
def test_every_frame_of_a_clip_is_chosen_by_itself(name: str) -> None:
    cues = example_cues(as_method(name), 1)
    cues = replace(cues, grid=(2, 4, 6), tiles=None)
    keep = gp.select(name, cues, gp.PerFrame(gp.Ratio(0.25)))
    for frame in range(2):
        at = slice(24 * frame, 24 * frame + 24)
        more = {need: v if getattr(need, "of", "") == "text" else v[at] for need, v in cues.more.items()}
        relevance = None if cues.relevance is None else cues.relevance[at]
        alone = replace(cues, features=cues.features[at], grid=(1, 4, 6), relevance=relevance, more=more)
        mine = keep.rows[(keep.rows >= at.start) & (keep.rows < at.stop)] - at.start
        assert mine.tolist() == gp.select(name, alone, 6).rows.tolist()
    assert (
        gp.select(name, replace(cues, grid=(1, 6, 8)), gp.PerFrame(6)).k
        == gp.select(name, replace(cues, grid=(1, 6, 8)), 6).k
    )


@pytest.mark.parametrize("method", [*NAMES, *INEXACT[1:]], ids=str)
@settings(max_examples=25)
@given(data=st.data(), t=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(1, 4))
def test_how_many_stay_is_known_before(method: Any, data: st.DataObject, t: int, h: int, w: int) -> None:
    n = t * h * w
    cues = replace(sized(method, data.draw(st.integers(0, 99)), n), grid=(t, h, w))
    keep = data.draw(st.one_of(st.integers(t, n + 2), st.just(0), st.floats(0.4, 1).map(gp.Ratio)))
    if not as_method(method).compares_frames and data.draw(st.booleans()):
        keep = gp.PerFrame(keep)
    few = method == "pool" and not isinstance(keep, gp.PerFrame) and 0 < gp.count(keep, n) < t
    if few:
        for run in (lambda: gp.select(method, cues, keep), lambda: gp.kept_count(method, keep, n, (t, h, w))):
            with pytest.raises(ValueError, match="at least one token per frame"):
                run()
        return
    said: Any = gp.kept_count(method, keep, n, (t, h, w))
    kept = gp.select(method, cues, keep).k
    if said is None:
        assert not as_method(method).exact
        most = keep.of(n, t) if isinstance(keep, gp.PerFrame) else gp.count(keep, n)
        assert kept <= most
    else:
        assert kept == said


def test_counts_that_are_in_the_docs() -> None:
    assert gp.kept_count("divprune", gp.Ratio(0.25), 576) == 144
    assert gp.kept_count("pool", 130, 576, grid=(1, 24, 24)) == 121
    assert gp.kept_count("divprune", gp.PerFrame(3), 576, grid=(4, 12, 12)) == 12
    assert gp.kept_count("divprune", gp.PerFrame(3), 576) == 3
    assert gp.kept_count(gp.GreedyPrune(fallback="none"), 64, 576) is None
    assert gp.kept_count(gp.GreedyPrune(fallback="none"), 576, 576) == 576
    assert gp.count(gp.Ratio(0.25), 576) == 144
    with pytest.raises(ValueError, match=r"average pooling makes depends on the grid: pass grid=\(t, h, w\)"):
        gp.kept_count("pool", 130, 576)
    with pytest.raises(ValueError, match=r"grid=\(1, 2, 3\) does not hold 576 tokens"):
        gp.kept_count("pool", 130, 576, grid=(1, 2, 3))
    for n in (-1, 2.0, True, None):
        with pytest.raises(ValueError, match=rf"n={n} is no number of visual tokens"):
            gp.kept_count("divprune", 3, n)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Broken(gp.Method):
    """A method that fails in one of many ways."""

    fail: Callable[[], Any]

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        return self.fail()


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


DATA: dict[str, tuple[Any, Callable[[gp.Cues], gp.Cues], str]] = {
    "NaN": ("divprune", lambda c: replace(c, features=c.features * torch.nan), "DivPrune could not choose.*holds NaN"),
    "no text": ("greedyprune", lambda c: replace(c, text=None, question=None), "GreedyPrune could .* needs text"),
    "no grid": ("grid", lambda c: replace(c, grid=None), "UniformGrid could not choose.*needs grid"),
    "negative attention": (
        "cls",
        lambda c: replace(c, more={}, attention=-torch.ones(c.n)),
        "attention holds -1",
    ),
    "too many protected": ("divprune", lambda c: replace(c, protect=torch.arange(12)), "protect holds 12 tokens"),
    "protected and merged": ("tome", lambda c: replace(c, protect=torch.arange(2)), "merges tokens and cannot protect"),
    "an error of its own": (Broken(fail=failing(ZeroDivisionError("by 0"))), lambda c: c, "ZeroDivisionError: by 0"),
    "out of memory": (Broken(fail=failing(torch.OutOfMemoryError("full"))), lambda c: c, "OutOfMemoryError: full"),
    "no answer": (Broken(fail=lambda: None), lambda c: c, r"Broken\.select\(\) returned None"),
    "too few": (Broken(fail=lambda: gp.Keep.everything(3)), lambda c: c, "returned a Keep that cannot be carried out"),
    "an assertion": (Broken(fail=failing(AssertionError())), lambda c: c, "AssertionError"),
}


@pytest.mark.parametrize("what", DATA)
def test_evenly_spaced_tokens_stay_where_data_is_bad(what: str) -> None:
    method, spoil, message = DATA[what]
    cues = spoil(example_cues(as_method(method), 0))
    for k in (5, gp.Ratio(0.1)):
        with pytest.raises((ValueError, TypeError, ArithmeticError, RuntimeError, AssertionError)):
            gp.select(method, cues, k)
        with pytest.warns(gp.PruneWarning, match=message):
            keep = gp.select(method, cues, k, on_error="even")
        keep.check(cues.n, cues.features.device)
        assert keep.k == 5
        if cues.protect is None:
            assert keep.rows.tolist() == [4, 14, 24, 33, 43]
        else:
            assert set(keep.rows.tolist()[:2]) == {0, 1}
        assert torch.equal(keep.merge(cues.features).nan_to_num(), keep(cues.features).nan_to_num())


def test_only_the_bad_image_of_a_batch_is_thinned_evenly() -> None:
    good = [example_cues(gp.DivPrune(), seed) for seed in range(3)]
    bad = replace(good[1], features=good[1].features * torch.inf)
    with pytest.warns(gp.PruneWarning, match="DivPrune could not choose, so 4 evenly spaced tokens of 48 stay") as told:
        found = gp.select_batch("divprune", [good[0], bad, good[2]], [3, 4, 5], on_error="even")
    assert len(told) == 1
    assert found[1].rows.tolist() == [6, 18, 30, 42]
    for index, k in ((0, 3), (2, 5)):
        assert _parts(found[index]) == _parts(gp.select("divprune", good[index], k))


def test_evenly_spaced_tokens_are_as_many_as_were_foretold() -> None:
    cues = example_cues(gp.AveragePool(), 0)
    spoilt = replace(cues, features=cues.features * torch.nan)
    said = gp.kept_count("pool", 13, cues.n, cues.grid)
    assert said == 12
    with pytest.warns(gp.PruneWarning, match="AveragePool could not choose"):
        assert gp.select("pool", spoilt, 13, on_error="even").k == said
    clip = replace(example_cues(gp.DivPrune(), 1), grid=(2, 4, 6))
    spoilt = replace(clip, features=clip.features * torch.nan)
    with pytest.warns(gp.PruneWarning):
        assert gp.select("divprune", spoilt, gp.PerFrame(2), on_error="even").rows.tolist() == [6, 18, 30, 42]


def test_good_data_is_chosen_from_without_a_warning() -> None:
    for name in NAMES:
        cues = example_cues(as_method(name), 0)
        assert _parts(gp.select(name, cues, 5, on_error="even")) == _parts(gp.select(name, cues, 5))


def test_stopping_is_no_bad_data() -> None:
    def stop() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gp.select(Broken(fail=stop), gp.Cues(torch.ones(4, 2)), 2, on_error="even")
