"""`greedyprune bench actors` reports the rows that are answered after a quarter of them, in all runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from greedyprune.batch.loop import in_process
from greedyprune.bench import actors

pytest.importorskip("sklearn")
pytest.importorskip("skimage")


def test_the_rate_is_that_of_the_rows_behind_the_first_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    clock = {"now": 0.0, "step": 0.0}

    def tick() -> float:
        clock["now"] += clock["step"]
        return clock["now"]

    def work(number: int) -> Any:
        asked.append(number)
        clock["step"] = 1 / number  # so many rows in a second
        return in_process

    monkeypatch.setattr(actors, "time", SimpleNamespace(perf_counter=tick))
    rows = actors.measure(rows=8, runs=2, seed=1, work=work)
    assert asked == [1, 2, 1, 2]
    assert [(row.actors, row.threads, row.rows, row.runs) for row in rows] == [(1, 1, 8, 2), (2, 1, 8, 2)]
    assert [row.per_second for row in rows] == pytest.approx([1.0, 2.0])
    assert [row.speedup for row in rows] == pytest.approx([1.0, 2.0])
