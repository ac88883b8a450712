"""The peak memory of a piece of work.

On a CPU every allocation of torch is followed, those inside its operations too; on CUDA the device's own counters are
read.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


def peak_of(work: Callable[[], Result], device: torch.device) -> tuple[Result, int]:
    """Run something. -> its result, and the most bytes at a time above those before, results included

    On a CPU: all that torch's allocator gives out. Buffers of the libraries below it do not count.

        output, peak = peak_of(call.prefill, torch.device("cpu"))
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = work()
        torch.cuda.synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    with _silent(), tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            result = work()
        trace = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(trace))
        events: list[dict[str, Any]] = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [each for each in events if each.get("name") == "[memory]"]
    now = most = 0
    for change in sorted(changes, key=lambda each: each["ts"]):
        now += change["args"]["Bytes"]
        most = max(most, now)
    return result, most


@contextmanager
def _silent() -> Iterator[None]:
    """Inside, what is written to standard error is lost: some releases of torch's profiler speak there."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
