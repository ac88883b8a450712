"""The clock of a decision: CPU time of the calling thread, or the device's time."""

from __future__ import annotations

import time
from typing import Any

import torch


class Clock:
    """The time between two marks: CPU time of this thread, or on CUDA that of the device. Other programs add nothing.

    It begins when it is made. Reading it on CUDA waits until the device has passed the second mark.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._begun: Any = self._mark()
        self._ended: Any = None

    def stop(self) -> Clock:
        """Set the second mark."""
        self._ended = self._mark()
        return self

    @property
    def seconds(self) -> float:
        """The seconds between the marks."""
        if self._device is None:
            return self._ended - self._begun
        self._ended.synchronize()
        return self._begun.elapsed_time(self._ended) / 1e3

    def _mark(self) -> Any:
        if self._device is None:
            return time.thread_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
