"""The public contract of a method: every registered one keeps it, and each broken promise is told by name."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import greedyprune as gp
from breadth import some
from greedyprune.naming import as_method
from greedyprune.registry import METHODS
from greedyprune.testing import _CHANGES, _WITHIN, _parts, check_method, example_cues

KNOBS: list[gp.Method] = [
    gp.GreedyPrune(preprocess="rmsnorm"),
    gp.GreedyPrune(text="question_mean", preprocess="center"),
    gp.GreedyPrune(text="question_max", fallback="none", tau=0.4),
    gp.MMR(text="question_max", trade=0.8),
    gp.SoftGreedyPrune(text="question_mean", weight=2),
    gp.SoftGreedyPrune(text="chat_max"),
    gp.Saliency(text="question_max"),
    gp.Saliency(saliency="change"),
    gp.FacilityLocation(weights="saliency"),
    gp.DART(exact_budget=False),
    gp.PruMerge(adaptive=True, neighbours=3),
    gp.PruMergePlus(adaptive=True, rest=False, normalise=True),
    gp.HiPrune(share=0.9, layer=3),
    gp.CDPruner(theta=0.5),
    gp.Random(seed=5),
]


QUICK = ("greedyprune", "fastv", "tome", "pool", "random", "vidcom2", "sparsevlm_recycle")
"""Methods of each kind of contract; `test_methods.py` holds most of it of all of them."""


@pytest.mark.parametrize("name", some(sorted(METHODS), *QUICK))
def test_every_method_keeps_the_contract(name: str) -> None:
    check_method(name)


@pytest.mark.parametrize("method", KNOBS, ids=repr)
def test_other_knobs_keep_the_contract(method: gp.Method) -> None:
    check_method(method)


@pytest.mark.parametrize("name", sorted(METHODS))
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), k=st.integers(3, 47))
def test_a_cue_that_is_not_read_changes_nothing(name: str, seed: int, k: int) -> None:
    method = as_method(name)
    cues = example_cues(method, seed)
    first = _parts(gp.select(method, cues, k))
    for word, change in _CHANGES.items():
        read = bool(method.reads & {word, *_WITHIN.get(word, ())})
        if not read and not (word == "protect" and method.merges):
            assert _parts(gp.select(method, change(cues, torch.Generator().manual_seed(seed + 1)), k)) == first, word


def test_what_is_read_goes_by_the_knobs() -> None:
    assert gp.GreedyPrune().reads == {"tokens", "last_text", "protect"}
    assert gp.GreedyPrune(text="question_mean").reads == {"tokens", "question", "protect"}
    assert gp.GreedyPrune(preprocess="rmsnorm").reads == {"tokens", "last_text", "norm", "protect"}
    assert gp.MMR(saliency="value_norm").reads == {"tokens", "values", "protect"}
    assert gp.Saliency(saliency="change").reads == {"change", "protect"}
    assert gp.Saliency(text="question_max").reads == {"tokens", "question", "protect"}
    assert gp.SoftGreedyPrune(text="chat_max").reads == {"tokens", "chat", "protect"}
    assert gp.FacilityLocation().reads == {"tokens", "protect"}
    assert gp.FacilityLocation(weights="saliency").reads == {"tokens", "last_text", "protect"}
    assert gp.CDPruner().reads == {"tokens", "question", "relevance", "protect"}
    assert gp.DART().reads == {"tokens", "text", "keys", "text_keys", "norm", "protect"}
    assert gp.MMTok().reads == {"tokens", "question", "encoded", "protect"}
    assert gp.Random().reads == {"protect"}
    assert gp.AveragePool().reads == {"grid"}


class Sharp(float):
    """A float that no other process can make: it does not pickle."""

    def __reduce__(self) -> Any:
        raise TypeError("it cannot be pickled")


@dataclass(frozen=True, kw_only=True)
class Longest(gp.Method):
    """The tokens with the largest sums: a method that keeps the contract."""

    reads_norm: ClassVar[bool] = False

    def scores(self, cues: gp.Cues) -> torch.Tensor:
        return cues.features.sum(1)

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        ranking = self.scores(cues).sort(descending=True, stable=True).indices
        if cues.protect is not None:
            ranking = torch.cat([cues.protect, ranking[~torch.isin(ranking, cues.protect)]])
        return self.kept_rows(cues, ranking[:k])

    def kept_rows(self, cues: gp.Cues, order: torch.Tensor) -> gp.Keep:
        return gp.Keep.from_order(order, torch.zeros(order.shape[0], device=order.device), cues.n)


class OneShort(Longest):
    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        return super().select(cues, max(k - 1, 1))


class Twice(Longest):
    def kept_rows(self, cues: gp.Cues, order: torch.Tensor) -> gp.Keep:
        return super().kept_rows(cues, order[torch.arange(order.shape[0]) // 2])


class Descending(Longest):
    def kept_rows(self, cues: gp.Cues, order: torch.Tensor) -> gp.Keep:
        keep = super().kept_rows(cues, order)
        return replace(keep, rows=keep.rows.flip(0))


class Elsewhere(Longest):
    def kept_rows(self, cues: gp.Cues, order: torch.Tensor) -> gp.Keep:
        return gp.Keep.from_order(order, torch.zeros(order.shape[0]), cues.n)


class Careless(Longest):
    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        return super().select(replace(cues, protect=None), k)


class Placed(Longest):
    def scores(self, cues: gp.Cues) -> torch.Tensor:
        return cues.features.sum(1).cumsum(0)


class Drawn(Longest):
    def scores(self, cues: gp.Cues) -> torch.Tensor:
        return torch.rand(cues.n, device=cues.features.device)


class Remembering(Longest):
    calls: ClassVar[list[int]] = []

    def scores(self, cues: gp.Cues) -> torch.Tensor:
        self.calls.append(1)
        return cues.features.sum(1) * (-1) ** len(self.calls)


class Scaling(Longest):
    def scores(self, cues: gp.Cues) -> torch.Tensor:
        return cues.features.mul_(2.0).sum(1)


class Batched(Longest):
    def select_batch(self, cues: Any, k: Any) -> list[gp.Keep]:
        return [self.select(each, count) for each, count in zip(cues, k, strict=True)][::-1]


class Normed(Longest):
    def scores(self, cues: gp.Cues) -> torch.Tensor:
        return (cues.features * (1.0 if cues.norm is None else cues.norm)).sum(1)


class Boasting(Longest):
    @property
    def reads(self) -> frozenset[str]:
        return super().reads | {"grid"}


class Foreign(Longest):
    @property
    def reads(self) -> frozenset[str]:
        return super().reads | {"weather"}


class Unsure(Longest):
    def kept(self, k: int, n: int, grid: tuple[int, int, int] | None) -> int | None:
        return None


class Guessing(Longest):
    @property
    def exact(self) -> bool:
        return False

    def kept(self, k: int, n: int, grid: tuple[int, int, int] | None) -> int | None:
        return k - 1


class Rising(Longest):
    def counts(self, k: int, n: int, cuts: int) -> list[int]:
        return [0] * (cuts - 1) + [k]


@dataclass(frozen=True, kw_only=True)
class Listed(Longest):
    knobs: Any = field(default_factory=lambda: [1, 2])


@dataclass(frozen=True, kw_only=True)
class Unpicklable(Longest):
    knob: float = Sharp(1.0)


@dataclass(frozen=True, kw_only=True)
class Forgetful(Longest):
    knob: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "knob", self.knob + 1)


class Misplaced(Longest):
    stages: ClassVar[Any] = (gp.Layer,)


BROKEN: dict[str, tuple[Any, str]] = {
    "exactly k": (OneShort, r"kept \d+ of 48 tokens where \d+ were asked for"),
    "distinct": (Twice, "it holds a row twice"),
    "ascending": (Descending, "its rows are not in ascending order"),
    "device": (Elsewhere, "it makes its tensors on the device of the cues"),
    "protect": (Careless, "dropped a protected token"),
    "equivariant": (Placed, "permuting the tokens permutes the selection"),
    "seeded": (Drawn, "it draws from no global generator"),
    "the same again": (Remembering, "the same cues give the same selection"),
    "cues stay": (Scaling, "it leaves the cues as they were|the same cues give the same selection"),
    "a batch": (Batched, r"Batched\.select\(\) kept \d+ of 48|select_batch\(\) chooses for each image"),
    "reads too little": (Normed, "reads names 'norm', since changing it changed a selection"),
    "reads too much": (Boasting, "what reads names changes selections, and grid never did"),
    "reads what is none": (Foreign, "reads names cues, tokens, .*, and not weather"),
    "kept is known": (Unsure, r"kept\(\) says how many stay, and it says None"),
    "kept is right": (Guessing, r"kept\(\) says how many stay, and it says \d+ where \d+ of 48"),
    "counts": (Rising, r"counts\(k=7, n=48, cuts=3\) falls from n to k, and it is \[0, 0, 7\]"),
    "hashes": (Listed, "unhashable|equal methods hash alike"),
    "pickles": (Unpicklable, "it cannot be pickled|it pickles"),
    "a plain dict": (Forgetful, r"equal methods hash alike|from_plain\(\) gives it back"),
    "its own stage": (Misplaced, r"Misplaced cannot run at Input\(\)"),
}


def test_a_method_that_keeps_the_contract_passes() -> None:
    check_method(Longest)
    check_method(Longest())
    check_method(
        Longest(), cues=lambda seed: gp.Cues(torch.randn(48, 3, generator=torch.Generator().manual_seed(seed)))
    )


@pytest.mark.parametrize("promise", BROKEN)
def test_each_broken_promise_is_told_by_name(promise: str) -> None:
    method, message = BROKEN[promise]
    with pytest.raises((AssertionError, ValueError), match=message):
        check_method(method)


def test_a_class_inside_a_function_is_told_to_move() -> None:
    class Local(Longest):
        """Nobody else finds it."""

    with pytest.raises(AssertionError, match=r"Local breaks a promise of pruning methods: it pickles \("):
        check_method(Local())


def test_the_checks_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_method("fastv")
