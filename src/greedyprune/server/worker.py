"""The thread of the model: it takes batches out of the queue and answers them. One bad request harms no other."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from greedyprune.preprocessing.inputs import to_model
from greedyprune.server.errors import of_run
from greedyprune.server.sharing import joined, policy_of
from greedyprune.server.writing import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from greedyprune.attach.handle import Pruned
    from greedyprune.server.jobs import Job
    from greedyprune.server.metrics import Metrics
    from greedyprune.server.waiting import Room, Waiting

LOG = logging.getLogger("greedyprune.server")


class Worker(threading.Thread):
    """Answers jobs until its queue is closed and empty."""

    def __init__(
        self, model: Any, tokenizer: Any, pruned: Pruned, waiting: Waiting, room: Room, metrics: Metrics
    ) -> None:
        super().__init__(name="greedyprune-model", daemon=True)
        self._model, self._tokenizer, self._pruned = model, tokenizer, pruned
        self._waiting, self._room, self._metrics = waiting, room, metrics
        config = model.generation_config
        ends = config.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends])
        pads = (config.pad_token_id, getattr(tokenizer, "pad_token_id", None), *sorted(self._ends))
        self._pad = next((pad for pad in pads if pad is not None), 0)

    def run(self) -> None:
        """Answer batches."""
        while jobs := self._waiting.take():
            begun = time.monotonic()
            self.answer(jobs)
            self._room.took(time.monotonic() - begun)

    def answer(self, jobs: Sequence[Job]) -> None:
        """Answer a batch. If it fails, those that heard nothing yet are answered one by one."""
        try:
            self._generate(jobs)
            return
        except Exception as error:
            LOG.exception("a batch of %d failed", len(jobs))
            for job in jobs:
                if not job.done and not job.cancelled and (len(jobs) == 1 or job.sent):
                    job.tell(of_run(error))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        for job in jobs:
            if not job.done and not job.cancelled:
                self.answer([job])

    def _generate(self, jobs: Sequence[Job]) -> None:
        first = jobs[0].chat
        inputs = to_model(joined([job.prepared.inputs for job in jobs], self._pad), self._model)
        request = self._pruned.request(policy_of(jobs))
        rows = Rows(jobs, request, self._ends, self._tokenizer)
        rows.first = self._metrics.first_token
        self._metrics.batch(len(jobs))
        drawn: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if first.samples:
            drawn = {"do_sample": True, "temperature": first.temperature, "top_p": first.top_p or 1.0, "top_k": 0}
        with torch.inference_mode(), _seeded(self._model, first.seed if first.samples else None):
            request.generate(
                **inputs,
                **drawn,
                num_beams=1,
                max_new_tokens=max(job.prepared.longest for job in jobs),
                pad_token_id=self._pad,
                stopping_criteria=[rows],
            )


@contextmanager
def _seeded(model: Any, seed: int | None) -> Iterator[None]:
    """Inside, tokens are drawn from this seed, and nothing else is; without a seed nothing changes."""
    if seed is None:
        yield
        return
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed % 2**63)
        yield
