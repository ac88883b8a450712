"""Rows per second that actors of Ray answer: one beside two, with one thread each.

Runs alternate. The rate counts from the row at which all actors have begun, a quarter of the rows, to the last one.
The actors need a core each, and nothing else may run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from greedyprune import testbed
from greedyprune.batch.answerer import Job
from greedyprune.batch.loop import Work, run
from greedyprune.batch.on_ray import Actors
from greedyprune.batch.sources import Source, open_source
from greedyprune.outputs import write_text
from greedyprune.policy import Policy

ACTORS = (1, 2)
"""How many actors are compared; the first is what the others are compared with."""
AT_A_TIME = 4
"""Rows that an actor gets at a time."""


@dataclass(frozen=True)
class Row:
    """So many actors."""

    actors: int
    threads: int
    """Threads of each actor."""
    rows: int
    """Rows of a run; a quarter of them is answered before the time counts."""
    runs: int
    seed: int
    per_second: float
    """Rows that are answered in a second: the median of the runs."""
    speedup: float
    """`per_second` over that of one actor."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(
    rows: int = 400,
    runs: int = 3,
    seed: int = 0,
    actors: Sequence[int] = ACTORS,
    work: Callable[[int], Work] = lambda number: Actors(number, rows=AT_A_TIME),
) -> list[Row]:
    """Answer questions about the testbed's scenes with the bundled model, by one number of actors after another.

    `work` makes the actors. Raises ImportError, which names the extra, if Ray is not installed.
    """
    rates: dict[int, list[float]] = {number: [] for number in actors}
    with TemporaryDirectory() as made:
        folder = Path(made)
        lines: list[str] = []
        for number, item in enumerate(testbed.sample(rows, seed=seed)):
            item.image.save(folder / f"{number}.png")
            lines.append(json.dumps({"image": f"{number}.png", "question": item.question.text}))
        write_text(folder / "rows.jsonl", "\n".join(lines))
        source = open_source(folder / "rows.jsonl")
        job = Job(partial(testbed.load, "llava"), Policy("soft_greedyprune", "25%"), folder, max_new_tokens=8)  # pyright: ignore[reportArgumentType]
        for turn in range(runs):
            for number, found in rates.items():
                found.append(_rate(source, folder / f"{turn}-{number}.jsonl", job, work(number)))
    first = median(rates[actors[0]])
    return [
        Row(number, 1, rows, runs, seed, per_second=median(found), speedup=median(found) / first)
        for number, found in rates.items()
    ]


def _rate(source: Source, output: Path, job: Job, work: Work) -> float:
    """Rows per second of one run."""
    times: list[tuple[int, float]] = []
    run(source, output, job, work, say=lambda done: times.append((done, time.perf_counter())))
    begun = next(place for place, (done, _) in enumerate(times) if done >= len(source) // 4)
    (first, start), (last, end) = times[begun], times[-1]
    return (last - first) / (end - start)
