"""Ray: the same rows, answered by actors on one machine or many, each with a model of its own.

Ray Data hands out the numbers of rows. An actor reads its rows and their pictures itself, so all machines must see the
files under the same paths. The process that began the run writes the output alone, in the order of the rows. An actor
that dies is started again, and what it had not handed back is done again by whichever actor is free.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from greedyprune.batch.answerer import Answerer

if TYPE_CHECKING:
    from greedyprune.batch.answerer import Job
    from greedyprune.batch.sources import Source

MOST_BLOCKS = 10_000
"""The largest number of parts that the rows are divided into. Ray keeps track of each."""


@dataclass(frozen=True)
class Actors:
    """Answer rows on Ray. Pass it to `run` as its `work`.

        run(source, Path("answers.jsonl"), job, Actors(2))

    Raises ImportError, which names the extra, if Ray is not installed.
    """

    actors: int = 1
    cpus: int = 1
    """Cores of each actor, and threads of its torch."""
    gpus: float = 0
    """GPUs of each actor; less than one shares a GPU."""
    rows: int = 16
    """Rows that an actor gets at a time; more if there would be more than `MOST_BLOCKS` such parts."""

    def __post_init__(self) -> None:
        data()

    def __call__(self, source: Source, job: Job, start: int) -> Iterator[list[dict[str, Any]]]:
        """Answer the rows from `start` on. -> their records, in the order of the rows"""
        ray = data()
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        left = len(source) - start
        blocks = min(-(-left // self.rows), MOST_BLOCKS)
        numbers = ray.data.range(left, override_num_blocks=blocks)
        answered = numbers.map_batches(
            _Actor,
            fn_constructor_kwargs={"source": source, "job": job, "start": start, "threads": self.cpus},
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(self.actors, blocks)),
            num_cpus=self.cpus,
            num_gpus=self.gpus or None,
        )
        try:
            for batch in answered.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
                yield [json.loads(str(record)) for record in batch["record"]]
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"an actor of Ray failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The last line of an error that came through Ray, which says what the actor said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _Actor:
    """A worker of Ray: it answers the rows whose numbers it gets."""

    def __init__(self, source: Source, job: Job, start: int, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._source, self._start, self._answerer = source, start, Answerer(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy

        numbers = [int(number) + self._start for number in batch["id"]]
        first, stop, step = numbers[0], numbers[-1] + 1, self._answerer.job.together
        assert numbers == list(range(first, stop)), "Ray Data hands out numbers in a row"
        records = [
            record
            for at in range(first, stop, step)
            for record in self._answerer.answer(at, self._source.read(at, min(at + step, stop)))
        ]
        return {"record": numpy.array([json.dumps(record) for record in records], dtype=object)}


def data() -> Any:
    """Ray, with Ray Data. Raises ImportError, which names the extra, if it is not installed."""
    try:
        import_module("ray.data")
        return import_module("ray")
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"this needs {missing.name}, which is not installed: pip install 'greedyprune[ray]'"
        ) from missing
