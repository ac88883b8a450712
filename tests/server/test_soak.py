"""The server as a process of its own, under a small load, and stopped in the middle. `make soak` does more of it."""

from __future__ import annotations

import sys

import pytest

import soak

pytest.importorskip("sklearn")
pytest.importorskip("skimage")


@pytest.mark.skipif(sys.platform != "linux", reason="signals and memory differ")
def test_many_clients_some_hostile_and_a_stop_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "HOSTILE", 0.3)
    with soak.started("--max-body-mb", "1") as (process, url):
        faults, sizes = soak.load(process, url, clients=6, requests=5)
        assert (faults, len(sizes)) == ([], 30)
        assert soak.stopped(process, url, clients=8) == []
