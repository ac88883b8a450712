"""The loop: every configuration answers every batch, in one process or several.

Answers in the run folder are not repeated.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from greedyprune.eval.answers import Answers, Batches
from greedyprune.eval.configs import Config
from greedyprune.eval.engine import Engine, ItemError, Outcome
from greedyprune.eval.items import Item, checked
from greedyprune.eval.store import Store, settings
from greedyprune.lock import locked

Load = Callable[[], tuple[Any, Any]]
"""Gives a model in eval mode and its processor. Must be picklable for several processes."""


Work = tuple[int, list[Item], list[Config]]
"""A batch by its number, and the configurations that have not answered it yet."""


@dataclass(frozen=True)
class Job:
    """Questions and configurations, and how they are run."""

    items: list[Item]
    configs: list[Config]
    batch: int = 32
    workers: int = 1
    load: Load | None = None
    """Gives a worker process its model; needed for more than one worker."""
    about: Mapping[str, str] | None = None
    """Further settings of the run folder, such as the model's name. A run continues only if they are the same."""


def evaluate(engine: Engine, job: Job, folder: Path, say: Callable[[int, int], None] | None = None) -> Answers:
    """Answer what the run folder lacks. `say(done, total)` is called as answers come in.

    Raises ValueError if the items cannot be evaluated, or if the run folder is in use, holds a run with other settings
    or cannot be read. Raises ItemError if a question fails.

        answers = evaluate(engine, Job(items, configs), Path("my-run"))
    """
    items = checked(job.items)
    with locked(folder):
        return _evaluate(engine, job, items, folder, say or (lambda done, total: None))


def _evaluate(engine: Engine, job: Job, items: list[Item], folder: Path, say: Callable[[int, int], None]) -> Answers:
    store = Store(folder, settings(engine, items, job.batch, job.about))
    batches = make_batches(engine, items, job.batch)
    todo: list[Work] = [
        (number, batch, missing)
        for number, batch in enumerate(batches)
        if (missing := [config for config in job.configs if (config.key, number) not in store.outcomes])
    ]
    total = len(items) * len(job.configs)
    given = sum(len(batch) * len(missing) for _, batch, missing in todo)
    done = total - given
    say(done, total)
    workers = min(job.workers, len(todo))
    source = _in_workers(engine, job, todo, workers) if workers > 1 else _in_this_process(engine, todo)
    for outcome in source:
        store.add(outcome)
        done += len(outcome.told)
        say(done, total)
    return Answers.of(batches, job.configs, store.outcomes, given)


def make_batches(engine: Engine, items: list[Item], size: int) -> Batches:
    """Group the items into batches: equally many visual tokens, and prompts of about one length to pad little."""
    one_size = engine.parts.family.takes_one_size(engine.parts.config)
    tokenizer = getattr(engine.processor, "tokenizer", engine.processor)

    def order(item: Item) -> tuple[tuple[int, int], int, str]:
        return shapes[item.picture], len(tokenizer(engine.prompt(item))["input_ids"]), item.name

    shapes = {item.picture: (0, 0) for item in items}
    if not one_size:
        shapes = {item.picture: item.open().size for item in {item.picture: item for item in items}.values()}
    batches: Batches = []
    for item in sorted(items, key=order):
        if not batches or len(batches[-1]) == size or shapes[batches[-1][0].picture] != shapes[item.picture]:
            batches.append([])
        batches[-1].append(item)
    return batches


def refused(engine: Engine, item: Item, configs: list[Config]) -> dict[str, str]:
    """Find the configurations that this model cannot run, by trying each on one question. -> {key: reason}"""
    reasons: dict[str, str] = {}
    batch = engine.prepare(0, [item])
    for config in configs:
        try:
            engine.answer(batch, config)
        except ItemError as error:
            if not isinstance(error.__cause__, (ValueError, TypeError, NotImplementedError)):
                raise
            reasons[config.key] = str(error.__cause__)
    return reasons


def _in_this_process(engine: Engine, work: Iterable[Work]) -> Iterator[Outcome]:
    """Answer batch by batch, so that shared work is done once and then freed."""
    for number, items, configs in work:
        batch = engine.prepare(number, items)
        for config in configs:
            yield engine.answer(batch, config)


def _in_workers(engine: Engine, job: Job, todo: list[Work], workers: int) -> Iterator[Outcome]:
    """The same in several processes, each with its own model. The answers do not depend on which process gives them."""
    if job.load is None:
        raise ValueError(f"workers={workers} needs load=, with which every process gets its own model.")
    context = multiprocessing.get_context("spawn")  # forked threads of torch would hang
    work, told = context.Queue(), context.Queue()  # of threads: neither side waits for the other to read
    team = [
        context.Process(target=_worker_process, args=(job.load, engine.longest, workers, work, told), daemon=True)
        for _ in range(workers)
    ]
    try:
        for member in team:
            member.start()
        for task in (*todo, *[None] * workers):
            work.put(task)
        left = sum(len(configs) for _, _, configs in todo)
        while left:
            outcome = _next_outcome(told, team)
            if isinstance(outcome, str):
                raise ItemError(outcome)
            left -= 1
            yield outcome
        for member in team:
            member.join()
    finally:
        work.cancel_join_thread()  # what nobody will read need not be sent
        for member in team:
            member.terminate()


def _next_outcome(told: Any, team: list[Any], patience: float = 2) -> Outcome | str:
    """The next message of a worker. Raises RuntimeError if a worker ended without a message."""
    while True:
        with suppress(queue.Empty):
            return told.get(timeout=patience)
        for member in team:
            if member.exitcode:
                raise RuntimeError(f"a worker process ended with status {member.exitcode}: try --workers 1.")


def _worker_process(*given: Any) -> None:
    """A worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    _answer_queue(*given)


def _end_with_parent(parent: Any) -> None:
    """End this process as soon as its parent has ended, even by a kill."""
    parent.join()
    os._exit(1)


def _answer_queue(load: Load, longest: int, workers: int, work: Any, told: Any) -> None:
    """Answer batches from the queue `work` and put outcomes into the queue `told`, until None comes."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        engine = Engine(*load(), max_new_tokens=longest)
        for outcome in _in_this_process(engine, iter(work.get, None)):
            told.put(outcome)
    except Exception as error:
        told.put(str(error) if isinstance(error, ItemError) else f"{type(error).__name__}: {error}")
