"""A plain thread beside a `using` block: whether it belongs to the block is a guess, and the guess is told."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import re
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import greedyprune as gp
from greedyprune.attach.context import FORWARD, GENERATION, REQUESTS
from greedyprune.models.parts import find_parts
from proofs import MODEL, ONE, forward, generate, hooked

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 2, "do_sample": False}
OWN = 5
BELONGS = r"started while Request\(.*keep=9.* assumed to belong .* keep=9, .*Thread\(target=request.generate"
STRANGER = r"started while Request\(.* does not use it: .* keep=5. .*Thread\(target=request.generate"


@pytest.fixture
def pruned() -> Iterator[gp.Pruned]:
    with gp.prune(MODEL, gp.GreedyPrune(), OWN, at=gp.Layer(2)) as handle:
        yield handle
        assert not handle._requests.open
        assert FORWARD.get() is GENERATION.get() is None


class Worker:
    """A plain thread, started when it is made. It runs what it is given, and no context comes with that."""

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._pool.submit(int).result()

    def run(self, work: Callable[[], Any]) -> list[str]:
        """Run it to its end. -> what it warned of"""

        def watched() -> list[str]:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                work()
            return [str(each.message) for each in told if each.category is gp.PruneWarning]

        return self._pool.submit(watched).result(60)

    def ask(self) -> list[str]:
        """Run one prompt."""
        return self.run(lambda: generate(MODEL, ONE, **FEW))


def assert_one(told: list[str], pattern: str) -> None:
    """Check that there was one warning, and that it says this."""
    assert len(told) == 1
    assert re.search(pattern, told[0]), told


def test_a_thread_started_inside_the_only_block_belongs_to_it(pruned: gp.Pruned) -> None:
    with pruned.using(keep=9) as request:
        told = Worker().ask()
        assert request.selections[0].k == 9
        assert pruned.selections == request.selections
    assert_one(told, BELONGS)


def test_a_thread_between_two_blocks_is_pruned_as_the_handle_says(pruned: gp.Pruned) -> None:
    """Whether they are nested or a stranger's, and whichever of them it was started in."""
    with pruned.using(keep=9) as outer:
        worker = Worker()
        with pruned.using(keep=3) as inner:
            for each in (worker, Worker()):
                assert_one(each.ask(), STRANGER)
                assert outer.selections == inner.selections == []
                assert pruned._requests.last is not None
                assert pruned._requests.last.selections[0].k == OWN
        assert_one(worker.ask(), BELONGS)
        assert outer.selections[0].k == 9


def test_a_thread_older_than_a_block_is_not_touched(pruned: gp.Pruned) -> None:
    worker = Worker()
    with pruned.using(keep=3) as request:
        assert worker.ask() == []
        assert request.selections == []
        assert pruned.selections[0].k == OWN


def test_a_thread_that_only_runs_a_request_is_no_second_block(pruned: gp.Pruned) -> None:
    inside, done = threading.Event(), threading.Event()

    def wait(ids: Any, scores: Any) -> Any:
        inside.set()
        assert done.wait(60)
        return scores

    other = pruned.request(keep=3)
    thread = threading.Thread(target=other.generate, kwargs={**ONE, **FEW, "logits_processor": [wait]})
    thread.start()
    assert inside.wait(60)
    with pruned.using(keep=9) as request:
        assert_one(Worker().ask(), BELONGS)
        assert request.selections[0].k == 9
    done.set()
    thread.join()
    assert other.selections[0].k == 3


def test_a_request_of_its_own_needs_no_guess(pruned: gp.Pruned) -> None:
    with pruned.using(keep=9) as block:
        request = pruned.request(keep=3)
        assert Worker().run(lambda: request.generate(**ONE, **FEW)) == []
        assert request.selections[0].k == 3
        assert block.selections == []


def test_a_thread_that_threading_did_not_start_is_not_guessed_about(pruned: gp.Pruned) -> None:
    """Threading learns of it when it first asks for itself. It may be older than the block."""
    done = threading.Event()

    def run() -> None:
        generate(MODEL, ONE, **FEW)
        done.set()

    def start() -> None:
        _thread.start_new_thread(run, ())
        assert done.wait(60)

    with pruned.using(keep=9) as request:
        with pytest.warns(gp.PruneWarning, match=STRANGER):
            start()
        assert request.selections == []
    assert pruned.selections[0].k == OWN


def stream(pruned: gp.Pruned) -> Iterator[None]:
    with pruned.using(keep=9):
        yield


def ends() -> dict[str, Callable[[gp.Pruned], tuple[weakref.ref[gp.Request], Callable[[], None]]]]:
    """How a block may end. Each opens one, and returns a reference to its request and what ends it."""

    def usual(pruned: gp.Pruned) -> Any:
        block = contextlib.ExitStack()
        return weakref.ref(block.enter_context(pruned.using(keep=9))), block.close

    def error(pruned: gp.Pruned) -> Any:
        block = contextlib.ExitStack()
        request = weakref.ref(block.enter_context(pruned.using(keep=9)))

        def fail() -> None:
            with pytest.raises(KeyError), block:
                raise KeyError

        return request, fail

    def elsewhere(pruned: gp.Pruned) -> Any:
        steps = stream(pruned)
        contextvars.copy_context().run(next, steps)
        return weakref.ref(next(iter(pruned._requests.open))), lambda: contextvars.copy_context().run(steps.close)

    def abandoned(pruned: gp.Pruned) -> Any:
        steps = [stream(pruned)]
        next(steps[0])
        return weakref.ref(next(iter(pruned._requests.open))), steps.clear

    return {each.__name__: each for each in (usual, error, elsewhere, abandoned)}


@pytest.mark.parametrize("end", ends())
def test_nothing_of_a_block_is_left_in_a_thread_that_belonged_to_it(pruned: gp.Pruned, end: str) -> None:
    request, close = contextvars.copy_context().run(ends()[end], pruned)
    worker = Worker()
    assert_one(worker.ask(), BELONGS)
    close()
    gc.collect()
    assert request() is None, "the thread lives on and holds nothing of it"
    assert worker.ask() == []
    assert pruned.selections[0].k == OWN
    with pruned.using(keep=3):
        assert worker.ask() == [], "the thread is older than this block"
        assert pruned.selections[0].k == OWN


@pytest.mark.parametrize("place", ["inputs", "tower"])
def test_a_generate_keeps_the_wish_that_it_began_with(
    pruned: gp.Pruned, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block ends before the first forward, or between the vision tower and the decoder. One method does it all."""
    inside, done = threading.Event(), threading.Event()

    def wait(*given: Any) -> None:
        inside.set()
        assert done.wait(60)

    def prepared(*args: Any, _own: Any = MODEL.prepare_inputs_for_generation, **kwargs: Any) -> Any:
        wait()
        return _own(*args, **kwargs)

    if place == "inputs":
        monkeypatch.setattr(MODEL, "prepare_inputs_for_generation", prepared)
    handles = [MODEL.model.vision_tower.register_forward_hook(wait)] if place == "tower" else []
    thread = threading.Thread(target=generate, args=(MODEL, ONE), kwargs=FEW)

    def start() -> None:
        thread.start()
        assert inside.wait(60)

    told = pytest.warns(gp.PruneWarning, match="assumed to belong")
    with hooked(*handles), pruned.using("cls", 9, at=gp.Input()) as request, told:
        start()
    done.set()
    thread.join()
    assert [each.k for each in request.selections] == [9]
    assert request.report().method == "ClsTopK"
    monkeypatch.undo()
    generate(MODEL, ONE, **FEW)
    assert pruned.selections[0].k == OWN


def test_a_task_beside_a_block_does_not_belong_to_it(pruned: gp.Pruned) -> None:
    """`asyncio.to_thread` hands a context on, which names no block. The pool's thread was started inside the block."""

    async def block(opened: asyncio.Event, asked: asyncio.Event) -> gp.Request:
        with pruned.using(keep=9) as request:
            await asyncio.to_thread(int)
            opened.set()
            await asked.wait()
        return request

    async def main() -> None:
        opened, asked = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(block(opened, asked))
        await opened.wait()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            await asyncio.to_thread(generate, MODEL, ONE, **FEW)
        assert [str(each.message) for each in told if re.search(STRANGER, str(each.message))]
        assert pruned.selections[0].k == OWN
        asked.set()
        assert (await task).selections == []

    asyncio.run(main())
    assert REQUESTS.get() == ()


@pytest.mark.parametrize(("method", "at"), [("hiprune", gp.Input()), ("random", gp.Layer(2))], ids=["tower", "decoder"])
def test_a_forward_runs_while_another_thread_registers_hooks(method, at, monkeypatch) -> None:
    parts, worker, ran = find_parts(MODEL), Worker(), list[str]()
    module = parts.layers[1] if at == gp.Layer(2) else parts.tower_layers[0][1]
    outside = contextvars.Context()
    outside.run(REQUESTS.set, ())

    class Slow(OrderedDict[int, bool]):
        """What torch fills last of a hook: meanwhile another forward runs, to its end."""

        def __setitem__(self, key: int, value: bool) -> None:
            worker.run(lambda: ran.append(outside.run(lambda: str(forward(MODEL, ONE).logits.shape))))
            super().__setitem__(key, value)

    with gp.prune(MODEL, "random", OWN, at=gp.Input()) as handle:
        monkeypatch.setattr(module, "_forward_pre_hooks_with_kwargs", Slow())
        with handle.using(method, at=at):
            forward(MODEL, ONE)
        assert len(ran) == 1
