"""Worker processes: none of them outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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
    context.Process(target=loop._member, args=(load, 8, 1, work, told), daemon=True).start()
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
