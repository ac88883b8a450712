"""One request, one object: whichever thread, task, context or generator it runs in, it reads its own result."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import greedyprune as gp
import proofs
from greedyprune.attach.context import FORWARD, GENERATION, REQUESTS
from greedyprune.attach.forward.decode import TextInputs
from proofs import MODEL, ONE, TWO, forward, generate

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 2, "do_sample": False}
OWN = 5
METHODS = ("random", "grid", "divprune", "greedyprune")


@pytest.fixture
def pruned() -> Iterator[gp.Pruned]:
    with gp.prune(MODEL, gp.GreedyPrune(), OWN, at=gp.Layer(2)) as handle:
        yield handle
        generate(MODEL, ONE, **FEW)
        assert [s.k for s in handle.selections] == [OWN], "the handle's own policy is in force afterwards"
        assert REQUESTS.get() == ()
        assert FORWARD.get() is GENERATION.get() is None


def ask(request: gp.Request) -> tuple[int, str]:
    """Run a request on one prompt. -> the tokens it kept, and its method, as its own result says."""
    request.generate(**ONE, **FEW)
    assert request.selections, "its own result, and nobody else's"
    return request.selections[0].k, request.report().method


def wishes(count: int) -> list[tuple[str, int]]:
    return [(METHODS[i % len(METHODS)], 1 + i % 7) for i in range(count)]


def expected(wish: tuple[str, int]) -> tuple[int, str]:
    return wish[1], type(gp.from_plain({"type": wish[0]})).__name__


# A request ---------------------------------------------------------------------------------------------------------


def test_a_request_is_pruned_as_a_model_with_its_policy() -> None:
    told = {**FEW, "return_dict_in_generate": True, "output_logits": True}
    with gp.prune(MODEL, gp.GreedyPrune(), OWN, at=gp.Layer(2)) as handle:
        request = handle.request("divprune", 3, at=gp.Input())
        answer = request.generate(**ONE, **told)
    with gp.prune(MODEL, "divprune", 3, at=gp.Input()) as other:
        same = MODEL.generate(**ONE, **told)
        assert torch.equal(torch.stack(answer.logits), torch.stack(same.logits))
        assert request.selections[0].rows.tolist() == other.selections[0].rows.tolist()
        assert {**request.report().to_dict(), "select_ms": 0} == {**other.report().to_dict(), "select_ms": 0}


def test_what_is_left_out_is_as_the_handle_has_it(pruned: gp.Pruned) -> None:
    request = pruned.request(keep=3)
    assert request.policy == gp.Policy(gp.GreedyPrune(), 3, gp.Layer(2))
    with pruned.using(positions="compact"):
        assert pruned.request(keep=3).policy.positions == "compact"
    assert pruned.request("grid").policy.at == gp.UniformGrid().at, "a new method brings its own stage"


def test_a_request_reads_its_own_prompt_and_nobody_elses(pruned: gp.Pruned) -> None:
    first, second = pruned.request(keep=3), pruned.request(keep=4)
    assert first.selections == []
    assert "nothing was pruned" in str(first.report())
    first.generate(**ONE, **FEW)
    second.generate(**TWO, **FEW)
    assert [s.k for s in first.selections] == [3]
    assert [s.k for s in second.selections] == [4, 4]
    assert [s.k for s in pruned.selections] == [4, 4], "the handle tells of the last prompt"


WORD = {"input_ids": torch.tensor([[7]])}


@pytest.mark.parametrize("read", ["generate", "forward", "empty cache"])
def test_a_text_prompt_of_one_token_clears_the_result_as_a_longer_one_does(pruned: gp.Pruned, read: str) -> None:
    def run() -> None:
        more = {"past_key_values": DynamicCache()} if read == "empty cache" else {}
        generate(MODEL, WORD, **FEW) if read == "generate" else forward(MODEL, WORD, **more)

    generate(MODEL, ONE, **FEW)
    run()
    assert pruned.selections == []
    assert "nothing was pruned" in str(pruned.report())
    with pruned.using(keep=3) as request:
        generate(MODEL, ONE, **FEW)
        assert [s.k for s in request.selections] == [3]
        run()
        assert request.selections == pruned.selections == []


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2), gp.Layer(2, early=True)], ids=str)
def test_a_step_of_decoding_leaves_the_result(pruned: gp.Pruned, at: gp.Stage) -> None:
    with pruned.using(keep=3, at=at) as request:
        cache = proofs.cache_of(forward(MODEL, ONE, use_cache=True))
        for _ in range(2):
            forward(MODEL, WORD, past_key_values=cache)
            assert [s.k for s in request.selections] == [3]
    text = proofs.cache_of(forward(MODEL, WORD, use_cache=True))
    generate(MODEL, ONE, **FEW)
    forward(MODEL, WORD, past_key_values=text)
    assert [s.k for s in pruned.selections] == [OWN], "a step of another text, which began before"


def test_a_request_runs_once(pruned: gp.Pruned) -> None:
    request = pruned.request(keep=3)
    request.generate(**ONE, **FEW)
    with pytest.raises(RuntimeError, match=r"this request ran already: make another with pruned.request"):
        request.generate(**ONE, **FEW)
    with pytest.raises(RuntimeError, match="ran already"), request:
        pass
    with pruned.using(keep=4) as block:
        with pytest.raises(RuntimeError, match="is in use"), block:
            pass
        assert ask(block) == (4, "GreedyPrune")
        generate(MODEL, ONE, **FEW)
        assert block.selections[0].k == 4


def test_a_request_does_not_run_twice_at_a_time(pruned: gp.Pruned) -> None:
    request, told = pruned.request(keep=3), list[str]()

    def again(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        with pytest.raises(RuntimeError, match="this request is in use: make another") as refused:
            request.generate(**TWO, **FEW)
        told.append(str(refused.value))
        return scores

    request.generate(**ONE, **FEW, logits_processor=[again])
    assert len(told) == FEW["max_new_tokens"]
    assert [s.k for s in request.selections] == [3], "the one prompt that it was made for"


def test_a_request_that_failed_leaves_nothing_in_force(pruned: gp.Pruned) -> None:
    request = pruned.request(keep=3)
    with pytest.raises(ValueError, match="nonsense"):
        request.generate(**ONE, nonsense=object())
    with pytest.raises(KeyError), pruned.using(keep=3):
        raise KeyError
    generate(MODEL, ONE, **FEW)
    assert pruned.selections[0].k == OWN


def test_a_removed_handle_refuses_its_requests() -> None:
    handle = gp.prune(MODEL, gp.GreedyPrune(), OWN)
    request = handle.request(keep=3)
    handle.remove()
    for call in (lambda: request.generate(**ONE), lambda: handle.request(keep=2), lambda: request.__enter__()):
        with pytest.raises(RuntimeError, match=r"was removed, so nothing would be pruned: call gp.prune"):
            call()
    assert REQUESTS.get() == ()


def test_hints_for_images_that_are_not_there_are_an_error(pruned: gp.Pruned) -> None:
    text = {"input_ids": ONE["input_ids"][:, :4] % 3 + 10}
    with pytest.raises(ValueError, match="protect says something about 1 images, and this call brings none"):
        pruned.request(protect=[[0]]).generate(**text, **FEW)
    with pytest.raises(ValueError, match="protect has 3 lists, and the call has 1 images"):
        pruned.request(protect=[[0], [1], [2]]).generate(**ONE, **FEW)


# Threads, tasks and pools ------------------------------------------------------------------------------------------


def test_sixteen_threads_read_their_own_results(pruned: gp.Pruned) -> None:
    each, found = wishes(16), dict[int, tuple[int, str]]()
    together = threading.Barrier(16)

    def run(number: int) -> None:
        together.wait()
        if number % 2:
            found[number] = ask(pruned.request(*each[number]))
            return
        with pruned.using(*each[number]) as request:
            generate(MODEL, ONE, **FEW)
            assert pruned.selections == request.selections
            found[number] = request.selections[0].k, pruned.report().method

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(16)] == [expected(wish) for wish in each]


def test_a_hundred_tasks_read_their_own_results(pruned: gp.Pruned) -> None:
    each = wishes(100)

    async def serve(number: int, pool: concurrent.futures.Executor) -> tuple[int, str]:
        loop, wish = asyncio.get_running_loop(), each[number]
        if number % 4 == 0:
            request = pruned.request(*wish)
            await loop.run_in_executor(pool, lambda: request.generate(**ONE, **FEW))
        elif number % 4 == 1:
            with pruned.using(*wish) as request:
                await asyncio.to_thread(MODEL.generate, **ONE, **FEW)
        elif number % 4 == 2:
            with pruned.using(*wish) as request:
                await asyncio.sleep(0)
                generate(MODEL, ONE, **FEW)
                await asyncio.sleep(0)
                assert pruned.selections == request.selections
        else:
            request = pruned.request(*wish)
            await asyncio.sleep(0)
            request.generate(**ONE, **FEW)
        await asyncio.sleep(0)
        return request.selections[0].k, request.report().method

    async def main() -> list[tuple[int, str]]:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            return await asyncio.gather(*(serve(number, pool) for number in range(100)))

    assert asyncio.run(main()) == [expected(wish) for wish in each]


def test_a_thread_may_run_a_request_while_another_streams_its_answer(pruned: gp.Pruned) -> None:
    class Streamer:
        """Hands tokens on as they come, as transformers' TextIteratorStreamer does."""

        def __init__(self) -> None:
            self.seen: list[int] = []
            self.done = threading.Event()

        def put(self, value: torch.Tensor) -> None:
            self.seen += value.flatten().tolist()

        def end(self) -> None:
            self.done.set()

    streamer, request = Streamer(), pruned.request(keep=9)
    thread = threading.Thread(target=request.generate, kwargs={**ONE, **FEW, "streamer": streamer})
    thread.start()
    assert streamer.done.wait(60)
    thread.join()
    assert request.selections[0].k == 9
    assert len(streamer.seen) == ONE["input_ids"].shape[1] + FEW["max_new_tokens"]


def test_a_thread_started_inside_a_block_takes_the_blocks_request(pruned: gp.Pruned) -> None:
    with pruned.using(keep=9) as request:
        thread = threading.Thread(target=request.generate, kwargs={**ONE, **FEW})
        thread.start()
        thread.join()
        assert request.selections[0].k == pruned.selections[0].k == 9


# Generators and contexts -------------------------------------------------------------------------------------------


def stream(pruned: gp.Pruned, keep: int, steps: int) -> Iterator[int]:
    """A generator that holds a block open while it is suspended, as streaming servers do."""
    with pruned.using(keep=keep) as request:
        for _ in range(steps):
            generate(MODEL, ONE, **FEW)
            assert pruned.selections == request.selections
            yield request.selections[0].k


def test_a_generator_resumed_in_copied_contexts_keeps_its_request(pruned: gp.Pruned) -> None:
    """Each step runs in a copy of the context, as Starlette's iterate_in_threadpool does."""
    found, steps = list[int](), stream(pruned, 9, 3)
    with warnings.catch_warnings(record=True) as told, contextlib.suppress(StopIteration):
        warnings.simplefilter("always")
        while True:
            found.append(contextvars.copy_context().run(next, steps))
    assert found == [9, 9, 9]
    assert not told


def test_a_generator_resumed_in_other_threads_keeps_its_request(pruned: gp.Pruned) -> None:
    steps = stream(pruned, 9, 3)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert [pool.submit(next, steps, None).result() for _ in range(4)] == [9, 9, 9, None]


def test_interleaved_streams_in_one_thread_keep_their_requests(pruned: gp.Pruned) -> None:
    one, other = stream(pruned, 3, 2), stream(pruned, 9, 3)
    found = [next(one), next(other), next(one), next(other), next(one, None), next(other), next(other, None)]
    assert found == [3, 9, 3, 9, None, 9, None]


def test_a_stream_that_goes_on_inside_another_block_keeps_its_request(pruned: gp.Pruned) -> None:
    steps = stream(pruned, 9, 3)
    assert next(steps) == 9
    with pruned.using(keep=3) as request:
        assert next(steps) == 9
        generate(MODEL, ONE, **FEW)
        assert request.selections[0].k == 3
    assert next(steps) == 9
    steps.close()


def test_streams_nested_in_each_other_keep_their_requests(pruned: gp.Pruned) -> None:
    with pruned.using(keep=7) as around:
        assert [list(stream(pruned, 3, 1)), list(stream(pruned, 9, 1))] == [[3], [9]]
        generate(MODEL, ONE, **FEW)
        assert around.selections[0].k == 7


def test_a_stream_does_not_lend_its_wish_to_its_caller(pruned: gp.Pruned) -> None:
    """Neither to a call between two of its steps, which is warned, nor to a request that is made there."""

    def other() -> Iterator[str]:
        with pruned.using("grid", 3, at=gp.Input(), protect=[[0]]) as request:
            generate(MODEL, ONE, **FEW)
            yield request.report().method
            generate(MODEL, ONE, **FEW)
            yield request.report().method

    one = other()
    assert next(one) == "UniformGrid"
    assert pruned.request(keep=2).policy == gp.Policy(gp.GreedyPrune(), 2, gp.Layer(2))
    assert list(stream(pruned, 9, 2)) == [9, 9]
    with pytest.warns(gp.PruneWarning, match=r"keep=3.* waits at a yield, and is not in force outside of it"):
        generate(MODEL, ONE, **FEW)
    assert pruned.selections[0].k == OWN
    assert list(one) == ["UniformGrid"]


def test_an_asynchronous_stream_works_in_other_threads_and_leaves_its_caller_alone(pruned: gp.Pruned) -> None:
    async def tokens(keep: int) -> Any:
        with pruned.using(keep=keep) as request:
            for _ in range(2):
                await asyncio.to_thread(MODEL.generate, **ONE, **FEW)
                yield request.selections[0].k
                generate(MODEL, ONE, **FEW)
                yield request.selections[0].k

    async def main() -> list[int]:
        found: list[int] = []
        one, two = tokens(3), tokens(9)
        for _ in range(4):
            found += [await anext(one), await anext(two)]
        assert [k async for k in one] == [k async for k in two] == []
        return found

    assert asyncio.run(main()) == [3, 9] * 4


def test_an_abandoned_stream_is_out_of_force(pruned: gp.Pruned) -> None:
    steps = stream(pruned, 3, 2)
    next(steps)
    steps.close()
    generate(MODEL, ONE, **FEW)
    assert pruned.selections[0].k == OWN


def test_a_context_that_outlives_its_block_is_pruned_as_the_handle_says(pruned: gp.Pruned) -> None:
    """A task that was started inside a block may go on after it, while another block is open elsewhere."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: None).result()
        with pruned.using(keep=3):
            inside = contextvars.copy_context()
        with pruned.using(keep=7):
            pool.submit(inside.run, generate, MODEL, ONE, **FEW).result()
            assert pruned.selections[0].k == OWN


def test_a_stream_may_be_collected_while_another_request_begins(
    pruned: gp.Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, steps, block = pruned._requests, stream(pruned, 3, 2), pruned.using(keep=9)
    contextvars.copy_context().run(next, steps)
    monkeypatch.setattr(requests, "on_stack", lambda: steps.close() or [])  # as the collector may, at any allocation
    thread = threading.Thread(target=block.__enter__, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits for a lock that it holds itself"
    assert list(requests.open) == [block]
    block.__exit__(None, None, None)


def test_a_block_entered_by_a_context_manager_is_the_inner_one(pruned: gp.Pruned) -> None:
    @contextlib.contextmanager
    def sparse() -> Iterator[None]:
        with pruned.using(keep=2):
            yield

    with pruned.using(keep=7), sparse():
        generate(MODEL, ONE, **FEW)
        assert pruned.selections[0].k == 2
    with contextlib.ExitStack() as stack:
        stack.enter_context(pruned.using(keep=6))
        generate(MODEL, ONE, **FEW)
        assert pruned.selections[0].k == 6
        with pruned.using(keep=3):
            generate(MODEL, ONE, **FEW)
            assert pruned.selections[0].k == 3


def test_a_request_inside_a_block_is_the_inner_one(pruned: gp.Pruned) -> None:
    with pruned.using(keep=7) as around:
        assert ask(pruned.request(keep=2)) == (2, "GreedyPrune")
        assert around.selections == []


def test_two_handles_do_not_meet(pruned: gp.Pruned) -> None:
    import tiny

    made = tiny.fresh("llava")
    inputs = made.prompt(((0,),))
    with gp.prune(made.model, gp.GreedyPrune(), 4) as other, pruned.using(keep=3), other.using(keep=6):
        generate(MODEL, ONE, **FEW)
        generate(made.model, inputs, **FEW)
        assert (pruned.selections[0].k, other.selections[0].k) == (3, 6)
        with contextlib.ExitStack() as stack:  # no function on the stack holds these two
            stack.enter_context(pruned.using(keep=2))
            stack.enter_context(other.using(keep=7))
            generate(MODEL, ONE, **FEW)
            assert pruned.selections[0].k == 2


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2), gp.Layer(2, early=True)], ids=str)
def test_nothing_of_a_forward_waits_for_the_garbage_collector(at: gp.Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []
    own = TextInputs.read.__func__

    def read(cls: type[TextInputs], *args: Any) -> TextInputs | None:
        text = own(cls, *args)
        if text is not None:
            made.append(weakref.ref(text))
        return text

    monkeypatch.setattr(TextInputs, "read", classmethod(read))
    with gp.prune(MODEL, gp.GreedyPrune(), OWN, at=at):
        gc.collect()
        gc.disable()
        try:
            generate(MODEL, ONE, max_new_tokens=3)
            assert len(made) >= 3
            assert [each() for each in made if each() is not None] == []
        finally:
            gc.enable()
