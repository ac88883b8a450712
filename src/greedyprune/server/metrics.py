"""Counts for Prometheus, in a registry of their own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable

    from greedyprune.server.jobs import Answer, Job

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What a server counts. `inside` and `waiting` return how many requests there are now."""

    def __init__(self, inside: Callable[[], float], waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests, by path and status.", ("path", "status"))
        self._tokens = self._counter("tokens", "Tokens, by kind: prompt, visual, visual_kept and answer.", ("kind",))
        self._whole = self._histogram("request_seconds", "Time of an answered request.", SECONDS)
        self._first = self._histogram("first_token_seconds", "Time from request to its first token.", SECONDS)
        self._batches = self._histogram("batch_requests", "Requests in a batch.", SIZES)
        for name, told, value in (
            ("requests_inside", "Requests that wait or run.", inside),
            ("requests_waiting", "Requests that wait for the model.", waiting),
        ):
            Gauge(f"greedyprune_{name}", told, registry=self.registry).set_function(value)

    def _counter(self, name: str, told: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"greedyprune_{name}", told, labels, registry=self.registry)

    def _histogram(self, name: str, told: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"greedyprune_{name}", told, buckets=bounds, registry=self.registry)

    def response(self, path: str, status: int) -> None:
        """A response began."""
        self._requests.labels(path, str(status)).inc()

    def first_token(self, job: Job) -> None:
        """A job got its first token."""
        self._first.observe(time.monotonic() - job.begun)

    def answered(self, job: Job, answer: Answer) -> None:
        """A job got its whole answer."""
        self._whole.observe(time.monotonic() - job.begun)
        self._tokens.labels("prompt").inc(job.prepared.length)
        self._tokens.labels("visual").inc(job.prepared.tokens)
        self._tokens.labels("visual_kept").inc(sum(each.k for each in answer.selections))
        self._tokens.labels("answer").inc(answer.tokens)

    def batch(self, jobs: int) -> None:
        """A batch begins."""
        self._batches.observe(jobs)

    def text(self) -> bytes:
        """All counts, in Prometheus' text format."""
        return generate_latest(self.registry)
