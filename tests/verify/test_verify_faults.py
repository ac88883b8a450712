"""Small faults, planted one by one: each is found, by the property that it breaks and by no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import greedyprune as gp
import tiny
from greedyprune.attach.context import FORWARD
from greedyprune.attach.forward import decide
from greedyprune.attach.forward.cache import ShortLayer
from greedyprune.attach.forward.decide import Step
from greedyprune.attach.forward.prefill import Prefill
from greedyprune.attach.hooks.decoder import DecoderHooks
from greedyprune.attach.hooks.outer import OuterHooks
from greedyprune.ops.cut import Cut
from greedyprune.verify import PROPERTIES, Subject, cases, prove
from planted import failures

NAMES = [each.name for each in PROPERTIES]
KEEPING, MASKED, CACHE, ROW, BUDGET, TEXT, TRACES, SHORT = NAMES

Plant = Callable[[pytest.MonkeyPatch, Subject], None]


@pytest.fixture
def llava() -> Subject:
    return subject_of("llava")


def subject_of(name: str) -> Subject:
    """A tiny model of its own, and prompts for it."""
    made = tiny.fresh(name)
    return Subject(made.model, made.prompt, tuple(tiny.SPECIAL), extend=made.continued)


def scaled(monkeypatch: pytest.MonkeyPatch, when: Callable[[Prefill, Step], bool], by: float = 1e-3) -> None:
    """Break pruning by a thousandth: scale the states of visual tokens where a cut is made."""
    own = Prefill.cut

    def cut(self: Prefill, hidden: Tensor, start: int) -> Tensor:
        short, step = own(self, hidden, start), self.steps[-1]
        if not when(self, step):
            return short
        visual = torch.isin(
            self.text.forward.ids.gather(1, step.fresh.columns), torch.tensor([self.text.forward.parts.media[0][1]])
        )
        return torch.where((visual & step.fresh.valid)[..., None], short * (1 + by), short)

    monkeypatch.setattr(Prefill, "cut", cut)


def keeping_all(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    scaled(monkeypatch, lambda work, step: all(keep.k == keep.n for keep in step.keeps))


def a_cut(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    scaled(monkeypatch, lambda work, step: any(keep.k < keep.n for keep in step.keeps))


def reading_again(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    """Only where a step reads prompt and answer once more, without a cache."""
    prompts = {subject.prompt(case.rows)["input_ids"].shape[1] for case in cases().values()}
    scaled(monkeypatch, lambda work, step: work.text.forward.cache is None and work.text.length not in prompts)


def decoding_by_hand(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    """Only where the caller leaves it to the model to make a cache, as loops by hand do."""
    lengths = {subject.prompt(case.rows)["input_ids"].shape[1] for case in cases().values()}
    scaled(monkeypatch, lambda work, step: work.text.forward.cache is None and work.text.length in lengths)


def a_long_cache(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    """A cache that is cut says it holds one more token than it does; `generate` counts from its mask instead."""
    own = ShortLayer.get_seq_length
    monkeypatch.setattr(ShortLayer, "get_seq_length", lambda layer: own(layer) + (own(layer) > layer.dropped > 0))


def in_batches(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    scaled(monkeypatch, lambda work, step: len(work.text.forward.ids) > 1)


def other_rows(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    """In a batch, random choice takes the neighbours of the tokens that it takes elsewhere."""
    select, enter, batches = gp.Random.select, OuterHooks._enter, [1]

    def entered(self: OuterHooks, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        batches[0] = len(kwargs["input_ids"])
        enter(self, module, args, kwargs)

    def moved(self: gp.Random, cues: gp.Cues, k: int) -> gp.Keep:
        keep = select(self, cues, k)
        rows = (keep.rows + (batches[0] > 1)) % cues.n
        return gp.Keep.from_order(rows.sort().values, torch.zeros(keep.k), cues.n)

    monkeypatch.setattr(gp.Random, "select", moved)
    monkeypatch.setattr(OuterHooks, "_enter", entered)


def one_more(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    own = decide.select_with_rows

    def one_more(method: gp.Method, cues: list[gp.Cues], keep: list[int]) -> list[tuple[gp.Keep, Tensor]]:
        return own(method, cues, [min(each.n, k + 1) for each, k in zip(cues, keep, strict=True)])

    monkeypatch.setattr(decide, "select_with_rows", one_more)


def text_alone(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    """Prompts without images change by the last bit of their embeddings."""
    own = DecoderHooks._before

    def text(self: DecoderHooks, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        found, forward = own(self, module, args, kwargs), FORWARD.get()
        if forward is not None and not forward.places and forward.plain_prompt:
            return args, {**kwargs, "inputs_embeds": kwargs["inputs_embeds"] * (1 + 2e-7)}
        return found

    monkeypatch.setattr(DecoderHooks, "_before", text)


def the_same_trace_every_time(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    """An attribute that stays as soon as a model was pruned once, and does not change any more."""
    own = OuterHooks.remove

    def remove(self: OuterHooks) -> None:
        own(self)
        self._parts.text.was_pruned = True

    monkeypatch.setattr(OuterHooks, "remove", remove)


def a_masked_column(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    """One dropped token stays in states and caches, behind a mask: everything is right, and one too long."""

    def keeping(keep: Tensor) -> Cut:
        longest = min(int(keep.sum(1).max()) + 1, keep.shape[1])
        columns = keep.to(torch.uint8).argsort(dim=1, stable=True)[:, keep.shape[1] - longest :]
        return Cut.of(keep.shape[1], columns, keep.gather(1, columns))

    monkeypatch.setattr(Cut, "keeping", staticmethod(keeping))


FAULTS: list[tuple[Plant, gp.Stage, set[str]]] = [
    (keeping_all, gp.Layer(2), {KEEPING}),
    (a_cut, gp.Layer(2), {MASKED}),
    (reading_again, gp.Layer(2), {CACHE}),
    (decoding_by_hand, gp.Layer(2), {CACHE}),
    (a_long_cache, gp.Input(), {CACHE}),
    (in_batches, gp.Layer(2), {KEEPING, MASKED, ROW}),
    (other_rows, gp.Layer(2), {ROW}),
    (one_more, gp.Layer(2), {BUDGET}),
    (text_alone, gp.Layer(2), {TEXT}),
    (the_same_trace_every_time, gp.Layer(2), {TRACES}),
    (a_masked_column, gp.Layer(2), {SHORT}),
]


@pytest.mark.parametrize(("plant", "at", "found"), FAULTS, ids=[plant.__name__ for plant, _, _ in FAULTS])
def test_a_small_fault_is_found_by_the_property_that_it_breaks(
    llava: Subject, monkeypatch: pytest.MonkeyPatch, plant: Plant, at: gp.Stage, found: set[str]
) -> None:
    plant(monkeypatch, llava)
    assert failures(prove(llava, [at], steps=3)) == found


@pytest.mark.parametrize("plant", [keeping_all, a_cut, reading_again, decoding_by_hand, in_batches])
def test_the_bound_is_near_a_fault_of_a_thousandth(
    llava: Subject, monkeypatch: pytest.MonkeyPatch, plant: Plant
) -> None:
    """The faults above would pass if the tolerance were 30 times larger: so they guard it."""
    plant(monkeypatch, llava)
    wrong = [v for v in prove(llava, [gp.Layer(2)], steps=3) if v.passed is False]
    assert wrong
    assert all(v.bound < v.error < 30 * v.bound for v in wrong), [(v.name, v.error, v.bound) for v in wrong]


def test_every_property_has_a_small_fault_of_its_own() -> None:
    assert {name for _, _, found in FAULTS for name in found} == set(NAMES)
