"""A decision about one prompt: how its time is told."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

import greedyprune as gp
from greedyprune.attach.forward.decide import Clock
from proofs import MODEL, ONE, Custom, forward

pytestmark = pytest.mark.usefixtures("untouched")


def first(cues: gp.Cues, k: int) -> gp.Keep:
    """Keep the first k tokens."""
    return gp.Keep.from_order(torch.arange(k), torch.zeros(k), cues.n)


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
