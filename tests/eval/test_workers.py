"""Worker processes: none of them outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

LEADER = """
import os, sys, time
from multiprocessing import get_context
from greedyprune.eval import loop

loop.Engine = lambda *_, **__: None  # so that a worker waits for work, with nothing loaded

def load():
    print(os.getpid(), flush=True)
    return ()

if __name__ == "__main__":
    context = get_context("spawn")
    work, told = context.Queue(), context.Queue()
    context.Process(target=loop._worker_process, args=(load, 8, 1, work, told), daemon=True).start()
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "leader.py"
    script.write_text(LEADER)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, encoding="utf-8") as leader:
        assert leader.stdout is not None
        worker = int(leader.stdout.readline())  # it has begun
        leader.kill()
        try:
            leader.communicate(timeout=5)  # which ends when nobody holds the pipe any more
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            pytest.fail("the worker is still there")


def test_a_stage_of_the_training_ends_with_the_process_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from greedyprune.testbed.train import command as training

    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **more: started.append((*given, more)))
    monkeypatch.setattr(sys, "argv", ["train", "llava", "--out", str(tmp_path)])
    training._start(training._arguments(), "vision")
    ((command, more),) = started
    assert more == {"stdin": subprocess.PIPE}
    monkeypatch.setattr(sys, "argv", command[2:])
    assert training._arguments().led

    stopped: list[Any] = []
    read, write = os.pipe()
    os.close(write)  # the leader is gone
    monkeypatch.setattr(training, "_stage", lambda _: watch.wait(5))
    watch = threading.Event()

    def stop(status: int) -> None:
        stopped.append(status)
        watch.set()

    once = os.read
    monkeypatch.setattr(os, "read", lambda file, size: once(read if file == 0 else file, size))
    monkeypatch.setattr(os, "_exit", stop)
    training.main()
    os.close(read)
    assert stopped == [1]
