"""The loop: rows that are not done are answered, in one process or by actors of Ray, and written in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greedyprune.batch.answerer import Answerer
from greedyprune.batch.journal import Journal, folder_of, is_parquet
from greedyprune.lock import locked
from greedyprune.outputs import prove_writable

if TYPE_CHECKING:
    from greedyprune.batch.answerer import Job
    from greedyprune.batch.sources import Source

FORMAT = 1
"""The form of an output. It rises if a run of before cannot go on."""

Records = list[dict[str, Any]]
Work = Callable[["Source", "Job", int], Iterable[Records]]
"""Answers the rows of a source from a number on, and gives their records in the order of the rows."""


@dataclass(frozen=True)
class Done:
    """What a run has done."""

    rows: int
    """All rows of the output."""
    before: int
    """Rows that were done before this run."""
    failed: int
    """Rows whose record holds an error, those of before among them."""


def in_process(source: Source, job: Job, start: int) -> Iterator[Records]:
    """Answer rows in this process, `job.together` at a time."""
    answerer = Answerer(job)
    try:
        for first in range(start, len(source), job.together):
            yield answerer.answer(first, source.read(first, first + job.together))
    finally:
        answerer.pruned.remove()


def run(
    source: Source,
    output: Path,
    job: Job,
    work: Work = in_process,
    about: Mapping[str, object] | None = None,
    say: Callable[[int], object] = lambda done: None,
) -> Done:
    """Answer every row of a source that is not done yet, and write the output.

        run(open_source(Path("pages")), Path("answers.parquet"), job)

    `work`: `in_process`, or `on_ray.Actors(2)`. `about`: what answers depend on beside the job, such as the name of the
    model; another value is another run. `say` is called with the number of rows that are done.

    The output has one record per row of the input, in its order. If the process is killed, the same call goes on behind
    the last record that was written. Raises ValueError if the output is neither JSONL nor Parquet, if it belongs to
    another run, or if another process writes it; OSError if it cannot be written; and what `Answerer` raises.
    """
    is_parquet(output)
    prove_writable(output)
    with locked(folder_of(output)):
        journal = Journal(output, {**_settings(source, job), **(about or {})}, len(source))
        before = journal.done
        say(before)
        if before < journal.rows:
            for records in work(source, job, before):
                journal.add(records)
                say(journal.done)
        if journal.done != journal.rows:
            raise RuntimeError(f"{journal.done} of {journal.rows} rows came back: run the same command again.")
        journal.finish()
    return Done(journal.rows, before, journal.failed)


def _settings(source: Source, job: Job) -> dict[str, object]:
    """What answers depend on."""
    return {
        "format": FORMAT,
        "input": source.digest(),
        "rows": len(source),
        "root": str(job.root.resolve()),
        "question": job.question,
        "policy": job.policy.to_dict(),
        "max_new_tokens": job.max_new_tokens,
    }
