"""A run folder: one process at a time, nothing lost by a kill, and what cannot be read is named with the remedy."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from greedyprune import lock
from greedyprune.eval.engine import Outcome
from greedyprune.eval.store import Store
from greedyprune.lock import locked

SETTINGS = {"batch": 4}
ONE = Outcome("dense", 0, ["yes"], [9], [9], [9.0], [1], [0], [0], 0.5)

HOLDER = f"""
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("lock", {lock.__file__!r})
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
from pathlib import Path
with lock.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(ValueError, match=rf"works in the run folder {tmp_path / 'run'}: wait .* or name"):
                locked(tmp_path / "run").__enter__()
            with locked(tmp_path / "another"):
                pass
        finally:
            other.kill()
    for _ in range(2):
        with locked(tmp_path / "run"), pytest.raises(ValueError, match="another process works"):
            locked(tmp_path / "run").__enter__()


def test_an_evaluation_holds_the_lock(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from greedyprune.eval import Item, Job, evaluate

    job = Job([Item("q", "t", None, "p", "?", ("a",))], [])
    engine: Any = SimpleNamespace()  # which nobody asks anything
    with locked(tmp_path), pytest.raises(ValueError, match="another process works"):
        evaluate(engine, job, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.skipif(os.name == "nt", reason="flock")
def test_a_file_system_without_locks_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_acquire", refuse)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\0\0\0"])
def test_settings_that_cannot_be_read_are_named_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'run.json'} cannot be read .*: delete the folder {tmp_path} "):
        Store(tmp_path, SETTINGS)


GOOD = ONE.to_dict()
BAD = {
    "no JSON": b"{",
    "zeros": b"\0" * 8,
    "no text": b'"\xff"',
    "no object": b"[1]",
    "deep": b"[" * 100_000,
    "a field too few": json.dumps({name: value for name, value in GOOD.items() if name != "told"}).encode(),
    "a field too many": json.dumps({**GOOD, "more": 1}).encode(),
    "a list too short": json.dumps({**GOOD, "kept": []}).encode(),
    "a list that is a number": json.dumps({**GOOD, "kept": 3}).encode(),
    "a batch that is a list": json.dumps({**GOOD, "batch": [0]}).encode(),
    "an answer that is none": json.dumps({**GOOD, "told": [None]}).encode(),
    "an empty line": b"",
}


@pytest.mark.parametrize("case", BAD)
def test_a_line_that_is_no_outcome_is_named_with_the_remedy(tmp_path: Path, case: str) -> None:
    store = Store(tmp_path, SETTINGS)
    store.add(ONE)
    file = tmp_path / "outcomes.jsonl"
    good = file.read_bytes()
    file.write_bytes(good + BAD[case] + b"\n" + good)
    with pytest.raises(ValueError, match=rf"{file}:2 is no outcome \(.*\): delete that line"):
        Store(tmp_path, SETTINGS)
    assert file.read_bytes() == good + BAD[case] + b"\n" + good


def test_a_cut_line_is_taken_off_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path, SETTINGS).add(ONE)
    file = tmp_path / "outcomes.jsonl"
    good = file.read_bytes()
    for cut in range(len(good)):
        file.write_bytes(good + good[:cut])
        monkeypatch.setattr(Path, "write_text", lambda *_, **__: pytest.fail("what is there was written anew"))
        assert Store(tmp_path, SETTINGS).outcomes == {("dense", 0): ONE}
        assert file.read_bytes() == good


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    store = Store(tmp_path, SETTINGS)
    (tmp_path / "outcomes.jsonl").mkdir()
    with pytest.raises(OSError, match=r"outcomes\.jsonl"):
        store.add(ONE)
    assert store.outcomes == {}
