"""Rows per second with one actor and with two, each with one thread.

    python -m greedyprune.batch.throughput --rows 400 --out results/batch/actors.csv

Runs alternate. The rate counts from the row at which all actors have begun, a quarter of the rows, to the last one.
The actors need a core each, and nothing else may run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from greedyprune import testbed
from greedyprune.batch.answerer import Job
from greedyprune.batch.loop import run
from greedyprune.batch.on_ray import Actors
from greedyprune.batch.sources import Source, open_source
from greedyprune.extras import by_hand
from greedyprune.outputs import write_csv, write_text
from greedyprune.policy import Policy


def rate(source: Source, output: Path, job: Job, actors: int) -> float:
    """Rows per second of one run."""
    times: list[tuple[int, float]] = []
    run(source, output, job, Actors(actors, rows=4), say=lambda done: times.append((done, time.perf_counter())))
    begun = next(place for place, (done, _) in enumerate(times) if done >= len(source) // 4)
    (first, start), (last, end) = times[begun], times[-1]
    return (last - first) / (end - start)


def main(given: list[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description="Rows per second with one actor of Ray and with two.")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(given)
    rates: dict[int, list[float]] = {1: [], 2: []}
    with TemporaryDirectory() as made:
        folder = Path(made)
        lines: list[str] = []
        for number, item in enumerate(testbed.sample(options.rows, seed=options.seed)):
            item.image.save(folder / f"{number}.png")
            lines.append(json.dumps({"image": f"{number}.png", "question": item.question.text}))
        write_text(folder / "rows.jsonl", "\n".join(lines))
        source = open_source(folder / "rows.jsonl")
        job = Job(partial(testbed.load, "llava"), Policy("soft_greedyprune", "25%"), folder, max_new_tokens=8)  # pyright: ignore[reportArgumentType]
        for number in range(options.runs):
            for actors, found in rates.items():
                found.append(rate(source, folder / f"{number}-{actors}.jsonl", job, actors))
    one = median(rates[1])
    rows = [
        {
            "actors": actors,
            "threads_each": 1,
            "rows": options.rows,
            "runs": options.runs,
            "seed": options.seed,
            "rows_per_second": round(median(found), 3),
            "of_one_actor": round(median(found) / one, 3),
        }
        for actors, found in rates.items()
    ]
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_csv(options.out, rows, list(rows[0]))
    sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    by_hand(main, "all,ray")
