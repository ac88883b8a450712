"""What a decision takes of the prompt, for whom it asks for more, and how its time is told."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

import greedyprune as gp
import proofs
from greedyprune.attach.forward.decide import _rows
from greedyprune.attach.forward.quotas import Quota
from greedyprune.clock import Clock
from greedyprune.models.parts import Parts
from proofs import MODEL, ONE, TWO, Custom, forward, generate

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 2, "do_sample": False}


def first(cues: gp.Cues, k: int) -> gp.Keep:
    """Keep the first k tokens."""
    return gp.Keep.from_order(torch.arange(k), torch.zeros(k), cues.n)


@pytest.mark.parametrize(
    ("method", "times"),
    [
        (gp.Random(), 0),
        (gp.GreedyPrune(), 0),
        (gp.GreedyPrune(preprocess="rmsnorm"), 1),
        (Custom(choose=first), 1),  # a method from elsewhere may read it and not say so
    ],
    ids=["random", "greedyprune", "rmsnorm", "own"],
)
def test_the_final_norm_is_asked_once_and_for_methods_that_may_read_it(
    method: gp.Method, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, own = list[Parts](), Parts.norm

    def watched(self: Parts) -> Any:
        asked.append(self)
        return own.fget(self)

    monkeypatch.setattr(Parts, "norm", property(watched))
    with gp.prune(MODEL, method, 5):
        forward(MODEL, TWO)
    assert len(asked) == times


def test_a_method_from_elsewhere_gets_the_norm() -> None:
    seen: list[Any] = []

    def choose(cues: gp.Cues, k: int) -> gp.Keep:
        seen.append(cues.norm)
        return first(cues, k)

    with gp.prune(MODEL, Custom(choose=choose), 5) as pruned:
        forward(MODEL, ONE)
        assert torch.equal(seen[0], pruned._parts.norm)


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
def test_a_method_that_writes_into_its_cues_changes_no_state(at: gp.Stage) -> None:
    def spoil(cues: gp.Cues, k: int) -> gp.Keep:
        cues.features.zero_()
        return first(cues, k)

    with gp.prune(MODEL, Custom(choose=first), 5, at=at):
        plain = generate(MODEL, ONE, **FEW)
    with gp.prune(MODEL, Custom(choose=spoil), 5, at=at):
        assert proofs.same(plain, generate(MODEL, ONE, **FEW))


def test_rows_without_gaps_are_no_copy() -> None:
    states = torch.randn(9, 4)
    run, gaps = torch.arange(2, 7), torch.tensor([2, 3, 6])
    for columns, copied in ((run, False), (run, True), (gaps, False)):
        assert torch.equal(_rows(states, columns, copied=copied), states[columns])
    assert _rows(states, run, copied=False).data_ptr() == states[2].data_ptr()
    assert _rows(states, run, copied=True).data_ptr() != states[2].data_ptr()


def test_a_budget_that_is_not_known_is_never_taken_for_a_number() -> None:
    """`Total` stands for a kind of budget that somebody adds: it may split an image, as `PerFrame` does."""
    assert [Quota(budget, 4, 2).asked for budget in (9, gp.Ratio(0.5), gp.PerFrame(2))] == [4, 4, gp.PerFrame(2)]
    new: Any = gp.Total(4)
    with pytest.raises(AssertionError, match=r"got: Total\(tokens=4"):
        _ = Quota(new, 4).asked


def test_the_time_of_a_selection_is_that_of_its_own_work() -> None:
    """While the thread sleeps, or while another program has the processor, no time passes."""

    def sleepy(cues: gp.Cues, k: int) -> gp.Keep:
        time.sleep(1)
        return first(cues, k)

    with gp.prune(MODEL, Custom(choose=sleepy), 5) as pruned:
        forward(MODEL, ONE)
        assert 0 < pruned.report().select_ms < 500


def test_the_time_of_a_selection_on_cuda_is_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the device before the time is read."""
    waited, marks = list[Any](), list[Any]()

    class Event:
        """An event of a device that needs 7 ms from each to the next."""

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda:1"
            marks.append(self)

        def synchronize(self) -> None:
            waited.append(self)

        def elapsed_time(self, other: Any) -> float:
            return 7.0 * (marks.index(other) - marks.index(self))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    clock = Clock(torch.device("cuda:1")).stop()
    assert not waited
    assert clock.seconds == pytest.approx(7e-3)
    assert waited == marks[1:]
