"""A method of the user's own: what is wrong with it is told in words that name its class and say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import greedyprune as gp
from greedyprune import naming
from greedyprune.registry import METHODS

N, D = 12, 4
CUES = gp.Cues(torch.ones(N, D))


def kept(order: list[int], **more: Any) -> gp.Keep:
    return gp.Keep.from_order(torch.tensor(order), torch.zeros(len(order)), N, **more)


def changed(**parts: Any) -> gp.Keep:
    return replace(kept([2, 0, 1]), **parts)


@dataclass(frozen=True, kw_only=True)
class Brightest(gp.Method):
    """Returns whatever it was given."""

    answer: Callable[[], Any]
    fewer: bool = False

    @property
    def exact(self) -> bool:
        return not self.fewer

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        return self.answer()


NAN = torch.tensor([1.0, float("nan"), 0.0])
WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "nothing": (lambda: None, TypeError, r"returned None: return Keep\.from_order\(order, gains, cues\.n\)"),
    "a tensor": (lambda: torch.arange(3), TypeError, r"returned a Tensor: return Keep\.from_order"),
    "a list": (lambda: [0, 1, 2], TypeError, "returned a list: return Keep"),
    "a row twice": (lambda: kept([2, 0, 2]), ValueError, r"a row twice: order is \[2, 0, 2\]"),
    "a row too high": (lambda: kept([2, 0, N]), ValueError, "not one of 0 to 11"),
    "a row below 0": (lambda: kept([-1, 0, 2]), ValueError, "not one of 0 to 11"),
    "too few": (lambda: kept([2, 0]), ValueError, "kept 2 of 12 tokens where 3 were asked for: return exactly k rows"),
    "too many": (lambda: kept([2, 0, 1, 5]), ValueError, "kept 4 of 12 tokens where 3 were asked for: return exactly"),
    "another n": (lambda: changed(n=N - 1), ValueError, "n=11, but there are 12 tokens: pass n=cues.n"),
    "no n": (lambda: changed(n=None), ValueError, "n=None, but there are 12 tokens"),
    "gains of NaN": (lambda: changed(gains=NAN), ValueError, r"gains hold NaN or infinity: .* gains are \[1, nan, 0\]"),
    "too few gains": (lambda: changed(gains=NAN[:2]), ValueError, r"gains has shape \(2,\) .* each of the 3 rows"),
    "a list of gains": (lambda: changed(gains=[1.0, 2.0, 3.0]), TypeError, r"gains is a list: pass a torch tensor"),
    "rows in disorder": (lambda: changed(rows=torch.tensor([2, 0, 1])), ValueError, "rows are not in ascending order"),
    "other rows": (lambda: changed(rows=torch.tensor([0, 1, 3])), ValueError, "rows and its order are not the same"),
    "fewer rows": (lambda: changed(rows=torch.tensor([0, 1])), ValueError, "order has 3 rows and rows 2"),
    "a mask": (lambda: changed(rows=torch.ones(3) > 0), ValueError, r"type torch\.bool: pass .*mask\.nonzero"),
    "another device": (
        lambda: changed(rows=torch.empty(3, dtype=torch.int64, device="meta")),
        ValueError,
        "rows lies on meta, the cues on cpu: make it with device=cpu",
    ),
    "weights of another shape": (lambda: changed(weights=torch.ones(3, 3)), ValueError, r"weights .* shape \(3, 12\)"),
    "weights of NaN": (lambda: changed(weights=torch.full((3, N), torch.nan)), ValueError, "weights hold NaN"),
    "suppressed by nobody there": (
        lambda: changed(suppressed_by=torch.full((N,), N)),
        ValueError,
        "suppressed_by holds a row that is not one of -1 to 11",
    ),
    "more by its own rule than all": (lambda: kept([2, 0, 1], before_fallback=4), ValueError, "before_fallback is not"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_a_method_returns_is_checked_in_words(what: str) -> None:
    answer, kind, message = WRONG[what]
    method = Brightest(answer=answer)
    with pytest.raises(kind, match=message) as caught:
        gp.select(method, CUES, 3)
    assert str(caught.value).startswith("Brightest.select() ")


def test_what_a_keep_is_made_of_is_checked() -> None:
    order, gains = torch.arange(3), torch.ones(3)
    for bad in (order.float(), order.int(), order > 0, order[None]):
        with pytest.raises(ValueError, match=r"order has shape .* and type .*: pass \(k,\) row numbers, int64"):
            gp.Keep.from_order(bad, gains, N)
    for short in (gains[:2], gains[None], gains.to(torch.complex64)):
        with pytest.raises(ValueError, match=r"gains has shape .*: pass what each of the 3 rows was worth"):
            gp.Keep.from_order(order, short, N)
    with pytest.raises(TypeError, match=r"order is a list: pass a \(k,\) int64 torch tensor"):
        gp.Keep.from_order([0, 1], gains, N)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"gains is a list: pass a \(k,\) torch tensor"):
        gp.Keep.from_order(order, [1.0, 2.0, 3.0], N)  # type: ignore[arg-type]


def test_what_can_be_carried_out_is_taken_as_it_is() -> None:
    weights = torch.eye(N)[:3]
    answer = replace(kept([2, 0, 1]), weights=weights, suppressed_by=torch.full((N,), -1))
    assert gp.select(Brightest(answer=lambda: answer), CUES, 3) is answer
    assert gp.select(Brightest(answer=lambda: kept([5]), fewer=True), CUES, 3).rows.tolist() == [5]
    nothing = gp.Keep.from_order(torch.empty(0, dtype=torch.int64), torch.empty(0), N)
    assert gp.select(Brightest(answer=lambda: nothing, fewer=True), CUES, 3).k == 0
    with pytest.raises(ValueError, match="kept 3 of 12 tokens where 2 were asked for: return at most k rows"):
        gp.select(Brightest(answer=lambda: answer, fewer=True), CUES, 2)
    with pytest.raises(ValueError, match=r"Brightest\.select\(\) dropped a protected token: take the rows in cues"):
        gp.select(Brightest(answer=lambda: answer), replace(CUES, protect=torch.tensor([7])), 3)


class Silent(gp.Method):
    """It cannot select."""


class Wordy(Brightest):
    """Its needs are words."""

    needs: ClassVar[Any] = ("attention",)


class Classy(Brightest):
    """Its needs are classes."""

    needs: ClassVar[Any] = (gp.Text,)


class Single(Brightest):
    """Its needs are one need."""

    needs: ClassVar[Any] = gp.Text()


class Placed(Brightest):
    """Its stages are instances."""

    stages: ClassVar[Any] = (gp.Layer(2),)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Silent, r"Silent has no select\(\): write def select\(self, cues, k\).*Keep\.from_order"),
        (Wordy, r"Wordy\.needs holds 'attention': write a need, such as Text\(\), Grid\(\) or Attention\('cls'\)"),
        (Classy, r"Classy\.needs holds <class .*Text'>: write a need, such as Text\(\)"),
        (Single, r"Single\.needs is Text\(\): write a tuple of needs"),
        (Placed, r"Placed\.stages is \(Layer\(.*list classes of stages, such as \(Input, Layer\)"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_a_class_declares_is_checked_before_it_runs(cls: type[gp.Method], message: str) -> None:
    more = {} if cls is Silent else {"answer": lambda: pytest.fail("it ran")}
    with pytest.raises(TypeError, match=message):
        gp.select(cls(**more), CUES, 3)


def test_the_wrong_thing_in_a_place_is_told_what_belongs_there() -> None:
    with pytest.raises(TypeError, match=r"cues is a Tensor: wrap the rows, Cues\(features\)"):
        gp.select("divprune", torch.ones(4, 2), 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Total\(tokens=2.* is shared between the images.* write an int or Ratio"):
        gp.select("divprune", CUES, gp.Total(2))
    with pytest.raises(TypeError, match="is no method: pass an instance"):
        gp.select({"type": "ratio", "share": 0.5}, CUES, 3)
    for stage in (2, "layer:2", None):
        with pytest.raises(ValueError, match=rf"cannot run at {stage!r}, which is no stage: write Input\(\), Layer"):
            gp.GreedyPrune().check_stage(stage)  # type: ignore[arg-type]


def test_a_keep_says_what_it_can_cut() -> None:
    keep = kept([2, 0, 1])
    for bad in ([1] * N, "tokens", None):
        with pytest.raises(TypeError, match=f"a {type(bad).__name__} cannot be cut: pass a torch tensor"):
            keep(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dim=1: the tensor has 1 dimensions, of shape \(12,\)"):
        keep(torch.ones(N), dim=1)
    with pytest.raises(ValueError, match=r"dim=0: the tensor has 0 dimensions"):
        keep(torch.tensor(1.0))
    merging = replace(keep, weights=torch.eye(N)[:3])
    for each in (keep, merging):
        with pytest.raises(ValueError, match=r"the tensor has 11 rows.*this decision is about 12 tokens"):
            each.merge(torch.ones(N - 1, 2))
        with pytest.raises(TypeError, match="a list cannot be cut"):
            each.merge([1])  # type: ignore[arg-type]


def test_a_need_can_be_declared_from_the_public_words() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Looked(gp.Method):
        """Top-k by attention."""

        needs: ClassVar[tuple[gp.Need, ...]] = (gp.Attention("cls"), gp.Text(), gp.Grid(), gp.Keys("tower"))

        def select(self, cues: gp.Cues, k: int) -> gp.Keep:
            look: Tensor = cues[gp.Attention("cls")]
            order = look.argsort(descending=True)[:k]
            return gp.Keep.from_order(order, look[order], cues.n)

    look = torch.arange(N) / 100
    cues = gp.Cues(torch.ones(N, D), text=torch.ones(2, D), grid=(1, 3, 4), attention=look, keys=torch.ones(N, 1, 2))
    assert gp.select(Looked, cues, 2).order.tolist() == [11, 10]
    with pytest.raises(ValueError, match=r"Looked needs keys, and the cues hold none: pass them in more="):
        gp.select(Looked, replace(cues, keys=None), 2)


@pytest.mark.parametrize(
    ("cls", "knob", "values"),
    [
        (gp.DART, "visual", [2.5, True, 0, torch.nan]),
        (gp.DART, "text", [2.5, True, -1, torch.inf]),
        (gp.PruMerge, "neighbours", [2.5, True, 0, torch.inf]),
        (gp.SparseVLMRecycle, "neighbours", [2.5, True, 0, torch.inf]),
        (gp.VisPruner, "drop", [2.5, True, 0, torch.inf]),
        (gp.GPrune, "threshold", [torch.nan, torch.inf, 1.5]),
    ],
)
def test_a_knob_that_nothing_can_be_selected_with_is_refused(cls: Any, knob: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"{knob}={value!r}.* (write|at least) "):
            cls(**{knob: value})


def test_a_radius_may_reach_beyond_the_grid() -> None:
    look, x = torch.rand(N, generator=torch.Generator().manual_seed(0)), torch.eye(N)
    cues = gp.Cues(x, grid=(1, 3, 4), attention=look, keys=x[:, None])
    whole = gp.select(gp.AdaptPrune(radius=5.0), cues, 6)
    for radius in (7.0, 1e308, torch.inf):
        assert gp.select(gp.AdaptPrune(radius=radius), cues, 6).order.tolist() == whole.order.tolist()


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def names() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(naming.REGISTERED)
    yield
    naming.REGISTERED.clear()
    naming.REGISTERED.update(before)


@dataclass(frozen=True, kw_only=True)
class LongestFirst(gp.Method):
    """Top-k by length."""

    power: float = 1.0

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        gains = cues.features.norm(dim=1) ** self.power
        order = gains.argsort(descending=True)[:k]
        return gp.Keep.from_order(order, gains[order], cues.n)


class Undecorated(LongestFirst):
    """Its option is no field."""

    width: int = 3


@pytest.mark.usefixtures("names")
def test_a_registered_method_has_its_name_everywhere() -> None:
    assert gp.register(LongestFirst) is LongestFirst
    cues = gp.Cues(torch.arange(N)[:, None] * torch.ones(D))
    assert gp.select("longest_first", cues, 2).order.tolist() == [N - 1, N - 2]
    plain = gp.Policy(LongestFirst(power=2.0), 64).to_dict()
    assert plain["method"] == {"type": "longest_first", "at": {"type": "input"}, "power": 2.0}
    assert gp.Policy.from_dict(plain, own=False).method == LongestFirst(power=2.0)
    with pytest.raises(ValueError, match=r"did you mean 'longest_first'"):
        gp.select("longest_frist", cues, 2)
    gp.register(LongestFirst, "other")
    assert type(naming.as_method("other")) is LongestFirst


@pytest.mark.usefixtures("names")
def test_a_class_that_is_defined_again_takes_the_place_of_the_old_one() -> None:
    gp.register(LongestFirst)
    again = dataclass(frozen=True, kw_only=True)(type("LongestFirst", (LongestFirst,), {"__module__": __name__}))
    gp.register(again)
    assert type(naming.as_method("longest_first")) is again


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("given", "more", "kind", "message"),
    [
        (LongestFirst(), {}, TypeError, r"is an instance: register its class, gp\.register\(LongestFirst\)"),
        (3, {}, TypeError, "3 is no method: register a class that derives from greedyprune.Method"),
        (Silent, {}, TypeError, r"Silent has no select\(\)"),
        (Brightest, {}, TypeError, r"Brightest\.answer has no default: give it one"),
        (Undecorated, {}, TypeError, r"declares width, which are no options yet: write @dataclass"),
        (LongestFirst, {"name": "divprune"}, ValueError, "means 'greedyprune.methods.divprune:DivPrune' already"),
        (LongestFirst, {"name": "oracle"}, ValueError, "means another thing already"),
        (LongestFirst, {"name": "My Method"}, ValueError, "cannot name a method: write small letters"),
        (LongestFirst, {"name": 3}, ValueError, "cannot name a method"),
    ],
)
def test_what_cannot_be_registered_is_refused_in_words(given: Any, more: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        gp.register(given, **more)
    assert "longest_first" not in naming.REGISTERED
    assert set(METHODS).isdisjoint(naming.REGISTERED)
