"""What `greedyprune bench serve` reports of a server is what its clients saw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import greedyprune as gp
from greedyprune.bench import serving
from greedyprune.bench.calls import Unmeasurable
from served import items, served

pytest.importorskip("sklearn")
pytest.importorskip("skimage")


def test_every_budget_is_measured_at_every_concurrency(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def here(folder: str, method: str, keep: str, threads: int) -> Iterator[str]:
        with served(*gp.testbed.load(folder), method=method, keep=keep, name=serving.NAME) as found:
            yield found.url.removeprefix("http://")

    monkeypatch.setattr(serving, "_started", here)
    bodies = [serving.body_of(each.image, each.question.text, 4) for each in items()[:2]]
    model = {"name": "llava", "parameters": 7, "method": "divprune"}
    rows = serving.measure("llava", bodies, **model, budgets=("100%", "1/9"), concurrencies=(1, 2), rounds=2, each=1)
    assert [(row.concurrency, row.keep, row.kept, row.requests) for row in rows] == [
        (1, "100%", 144, 2), (1, "1/9", 16, 2), (2, "100%", 144, 4), (2, "1/9", 16, 4),
    ]  # fmt: skip
    for dense, row in (rows[:2], rows[2:]):
        assert (dense.speedup, dense.first_speedup) == (1.0, 1.0)
        assert row.speedup == pytest.approx(row.per_second / dense.per_second)
        assert row.first_speedup == pytest.approx(dense.first_ms / row.first_ms)
        assert 0 < row.first_ms <= row.whole_ms
        assert row.first_ms <= row.first_p95_ms
    with pytest.raises(Unmeasurable, match="refuses a request"):
        serving.measure("llava", [{"messages": []}], **model, budgets=("100%",), concurrencies=(1,))
