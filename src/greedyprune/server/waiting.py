"""The queue in front of the model: first come, first served, and whoever fits the first one's batch goes with it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from greedyprune.server.errors import Refused
from greedyprune.server.sharing import key_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from greedyprune.server.jobs import Job

RECENT = 0.8
"""The weight of the past in the mean time of a batch, by which a refused client is told when to try again."""


class Room:
    """Counts the requests that are inside, from their first byte to the end of their answer, and bounds them."""

    def __init__(self, most: int, batch: int) -> None:
        self._most, self._batch, self.inside, self._mean = most, batch, 0, 1.0

    def enter(self) -> None:
        """Let a request in. Raises Refused, with the seconds to wait, if there are too many."""
        if self.inside >= self._most:
            wait = min(60, max(1, math.ceil(self._mean * self.inside / self._batch)))
            raise Refused(
                429,
                "too_many_requests",
                f"{self.inside} requests wait already, as many as this server holds: try again in {wait} s.",
                retry_after=wait,
            )
        self.inside += 1

    def leave(self) -> None:
        """A request is answered, refused or gone."""
        self.inside -= 1

    def took(self, seconds: float) -> None:
        """Note how long a batch took."""
        self._mean = RECENT * self._mean + (1 - RECENT) * seconds


class Waiting:
    """Jobs that wait for the model. The event loop puts them in, the thread of the model takes batches out.

    `batch`: the largest batch. `window`: seconds that a job waits for others that may share its batch.
    """

    def __init__(self, batch: int, window: float) -> None:
        self._batch, self._window = batch, window
        self._jobs: deque[tuple[Hashable, Job]] = deque()
        self._change, self._closed = threading.Condition(), False

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> None:
        """Add a job. Raises Refused if the server stops."""
        with self._change:
            if self._closed:
                raise Refused(503, "stopping", "the server stops: send the request to another one.")
            self._jobs.append((key_of(job), job))
            self._change.notify()

    def take(self) -> list[Job]:
        """Wait for the next batch; empty if the queue is closed and nothing is left."""
        with self._change:
            while True:
                while not self._jobs:
                    if self._closed:
                        return []
                    self._change.wait()
                until = time.monotonic() + self._window
                while not self._closed and len(self._jobs) < self._batch and (rest := until - time.monotonic()) > 0:
                    self._change.wait(rest)
                if taken := self._first():  # else all of them left
                    return taken

    def _first(self) -> list[Job]:
        """Take the first job that somebody waits for, and those that may share its batch."""
        left: deque[tuple[Hashable, Job]] = deque()
        taken: list[Job] = []
        wanted: Hashable = None
        for key, job in self._jobs:
            if job.cancelled:
                continue
            if not taken or (key is not None and key == wanted and len(taken) < self._batch):
                wanted = key if not taken else wanted
                taken.append(job)
            else:
                left.append((key, job))
        self._jobs = left
        return taken

    def close(self) -> None:
        """Take no more jobs. Those that wait are still handed out."""
        with self._change:
            self._closed = True
            self._change.notify_all()
