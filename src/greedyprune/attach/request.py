"""Requests: each has its own wish and its own result. Nothing is stored per thread."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import threading
import warnings
import weakref
from dataclasses import dataclass
from functools import cached_property, partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from greedyprune.attach.context import GENERATION, REQUESTS
from greedyprune.selection import PruneWarning, Report, Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from greedyprune.hints import Hints
    from greedyprune.policy import Policy

_ENTERED = itertools.count()
"""The counter that numbers requests in the order in which they are entered."""


@dataclass(eq=False)
class Result:
    """What a prompt left behind."""

    make: Callable[[], Report]
    """Makes the report."""
    selections: list[Selection]

    @cached_property
    def report(self) -> Report:
        """The report. It is counted when somebody first reads it, and reads the clock of a GPU then."""
        return self.make()


class Request:
    """One request: its wish, and its own result after it ran. It can run in any thread or task.

        request: gp.Request = pruned.request(keep=32)
        Thread(target=request.generate, kwargs={**inputs, "streamer": streamer}).start()
        ...
        print(request.report())

    `pruned.using(...)` makes the same kind of object for the calls inside a `with` block.
    """

    def __init__(self, requests: Requests, policy: Policy, hints: Hints) -> None:
        self.policy: Policy = policy
        self.hints: Hints = hints
        self._requests = requests
        self._result: Result | None = None
        self._uses, self._number, self._is_block = 0, -1, False
        self._frame: FrameType | None = None
        self._in_generator, self._thread = False, 0
        self._around: tuple[Request, ...] = ()
        self._threads: weakref.WeakSet[threading.Thread] | None = None

    @property
    def selections(self) -> list[Selection]:
        """The kept tokens of each image of this request's last prompt; empty until it ran."""
        return [] if self._result is None else list(self._result.selections)

    def report(self) -> Report:
        """Return the counts of this request's last prompt; empty until it ran."""
        return empty_report(self.policy) if self._result is None else self._result.report

    @property
    def result(self) -> Result | None:
        """The report and the selections of this request's last prompt; None until it ran."""
        return self._result

    @property
    def is_open(self) -> bool:
        """True while it runs."""
        return self._uses > 0

    @property
    def of_one_call(self) -> bool:
        """True for a request; False for the handle's own wish, which holds for all calls."""
        return self is not self._requests.own

    def record(self, report: Callable[[], Report] | None, selections: list[Selection]) -> None:
        """Store the result of a prompt. The hooks call this. `report` makes the report; None: there are no images."""
        make = report or partial(empty_report, self.policy)
        self._result = self._requests.last = Result(make, selections)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's `generate` with this request's wish, in the thread that calls this.

            out = pruned.request(keep=32).generate(**inputs)

        Raises RuntimeError if the request ran already or runs now, or if its handle was removed; ValueError if the
        request has hints for images, and the call brings no images.
        """
        model, before = self._requests.generator(), REQUESTS.get()
        self._begin(block=False)
        REQUESTS.set((*before, self))
        try:
            return model.generate(*args, **kwargs)
        finally:
            REQUESTS.set(before)
            self._end()

    def __enter__(self) -> Request:
        self._begin(block=True)
        own = inspect.currentframe()
        caller = None if own is None else own.f_back
        # An ExitStack enters from its own frame, which ends before the block does.
        if caller is not None and caller.f_code.co_filename != contextlib.__file__:
            self._frame, self._in_generator = caller, _is_stream(caller)
        self._thread = threading.get_ident()
        self._threads = weakref.WeakSet(threading.enumerate())
        REQUESTS.set((*(each for each in REQUESTS.get() if each.is_open), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A generator may resume in another context than it began in. A token works only in its own context: use none.
        self._frame = None
        self._end()
        REQUESTS.set(tuple(each for each in REQUESTS.get() if each is not self))

    def _begin(self, *, block: bool) -> None:
        with self._requests.lock:
            self._requests.check_attached()
            if self._uses and (block or not self._is_block):  # the calls inside a block may run at a time
                raise RuntimeError("this request is in use: make another with pruned.request(...).")
            if self._number >= 0 and not self._uses:
                raise RuntimeError("this request ran already: make another with pruned.request(...).")
            if self._number < 0:
                self._number = next(_ENTERED)
                around = self._requests.on_stack()[:1]
                self._around = (*around, *(each for request in around for each in request._around))
            self._uses, self._is_block = self._uses + 1, self._is_block or block
            self._requests.open[self] = None

    def _end(self) -> None:
        with self._requests.lock:
            self._uses -= 1
            if not self._uses:
                self._requests.open.pop(self, None)

    def __repr__(self) -> str:
        return f"Request({self.policy.method!r}, keep={self.policy.keep}, at={self.policy.place})"

    # -- read by `Requests`

    def entered_by(self) -> tuple[int, int] | None:
        """Return its number and the id of the frame that entered it; None if no frame entered it."""
        return None if self._frame is None else (self._number, id(self._frame))

    def is_suspended(self, around: Sequence[Request]) -> bool:
        """True if a generator of this thread entered it and waits at a `yield`, so that its caller runs now.

        `around`: the requests whose blocks are on the stack. In another thread, the context was copied on purpose.
        """
        if not self._in_generator or self._thread != threading.get_ident():
            return False
        return all(each._frame is not self._frame for each in around)

    def entered_while(self, other: Request) -> bool:
        """True if it was entered inside the block of `other`, while that block was on the stack."""
        return other in self._around

    def belongs_to(self, requests: Requests) -> bool:
        """True if it is a request of this handle."""
        return self._requests is requests

    @property
    def is_block(self) -> bool:
        """True if it is a `with` block."""
        return self._is_block

    def is_unseen_by(self, thread: threading.Thread) -> bool:
        """True if it is a `with` block, and this thread was started after the block was entered."""
        return self._threads is not None and thread not in self._threads


class Requests:
    """The requests of one handle. It finds the request in force for a call, and stores the last result."""

    def __init__(self, holders: Sequence[Any], policy: Policy, hints: Hints) -> None:
        # The collector may close an abandoned generator while this thread holds the lock.
        self.lock, self.removed = threading.RLock(), False
        self.open: dict[Request, None] = {}
        """The requests that run now."""
        self.own = Request(self, policy, hints)
        """The handle's own wish."""
        self.last: Result | None = None
        """The result of the last prompt, from any request."""
        self._holders = holders
        REQUESTS.set(REQUESTS.get())  # so a copy of this context, or of a task's, is told from that of a new thread

    def check_attached(self) -> None:
        """Raise RuntimeError if the handle was removed."""
        if self.removed:
            raise RuntimeError("this handle was removed, so nothing would be pruned: call gp.prune(model, ...) again.")

    def generator(self) -> Any:
        """Return the model whose `generate` a request calls. Raises TypeError if there is none."""
        found = next((each for each in self._holders if hasattr(each, "generate")), None)
        if found is None:
            kind = type(self._holders[0]).__name__
            raise TypeError(f"a {kind} has no generate(): call it inside `with pruned.using(...):`.")
        return found

    def wish(self) -> Request:
        """Return the wish for a call that starts now.

        It is that of the request in force here; else the one that the running `generate` began with; else that of the
        block that this thread seems to belong to (`_adopted`); else the handle's own.
        """
        found = self.in_force() or self._of_generation()
        if found is None and self.open:
            found = self._adopted()
        return found or self.own

    def in_force(self) -> Request | None:
        """Return the innermost open request around the call that runs now; None if there is none.

        A request is around a call if a function on the stack entered it, or if this context entered it. The stack is
        right for a generator, wherever it resumes. The context is right for tasks, and for the tasks that they start.
        A generator that waits at a `yield` has left its context in force: there, its request is passed over.
        If both give a request, the context's is the inner one if it was entered while the other was on the stack;
        otherwise the stack's is.
        """
        if not self.open:
            return None
        stack = self.on_stack()
        entered = (r for r in reversed(REQUESTS.get()) if r.is_open and r.belongs_to(self))
        mine = next((request for request in entered if not request.is_suspended(stack)), None)
        if mine is None or (stack and not mine.entered_while(stack[0])):
            return stack[0] if stack else None
        return mine

    def on_stack(self) -> list[Request]:
        """Return the requests that functions on the stack entered, the innermost function first, the last of each."""
        entered = sorted((by, request) for request in list(self.open) if (by := request.entered_by()) is not None)
        frames = {frame: request for (_, frame), request in entered}
        frame, found = inspect.currentframe() if frames else None, list[Request]()
        while frame is not None:
            if (request := frames.get(id(frame))) is not None:
                found.append(request)
            frame = frame.f_back
        return found

    def _of_generation(self) -> Request | None:
        """Return the wish that the running `generate` began with; None if none of this handle runs."""
        generation = GENERATION.get()
        wish = None if generation is None else generation.wish
        return wish if isinstance(wish, Request) and wish.belongs_to(self) else None

    def _adopted(self) -> Request | None:
        """Return the block that this thread seems to belong to, and warn that this is a guess; None if there is none.

        A thread belongs to a block if it was started while the block was open, if no other block is open, and if
        nobody handed it a context (`asyncio.to_thread` does, and that context names the requests around it). Nothing
        keeps the request afterwards.
        """
        thread, blocks = threading.current_thread(), [each for each in list(self.open) if each.is_block]
        unseen = next((request for request in blocks if request.is_unseen_by(thread)), None)
        waiting = next((r for r in REQUESTS.get() if r.is_open and r.belongs_to(self)), None)
        adopted: Request | None = None
        if waiting is not None:
            told = (
                f"{waiting!r} was entered by a generator that waits at a yield, and is not in force outside of it: "
                f"this prompt is pruned as the handle says, keep={self.own.policy.keep}. If it was meant for this "
                "call, take the request from the generator and call request.generate(...)."
            )
        elif unseen is None:
            return None
        elif len(blocks) == 1 and REQUESTS.get(None) is None and not _is_foreign(thread):
            adopted = unseen
            told = (
                f"this thread was started while {unseen!r} is in force in another thread, and is assumed to belong to "
                f"that block: this prompt is pruned as the block says, keep={unseen.policy.keep}, and its result is "
                "the block's. To be sure, start it with Thread(target=request.generate, ...)."
            )
        else:
            told = (
                f"this thread was started while {unseen!r} is in force in another thread, and does not use it: its "
                f"prompts are pruned as the handle says, keep={self.own.policy.keep}. Start it with "
                "Thread(target=request.generate, ...)."
            )
        warnings.warn(told, PruneWarning, stacklevel=3)
        return adopted


def _is_stream(frame: FrameType) -> bool:
    """True for the frame of a generator that somebody iterates over; False for one behind a context manager."""
    kind = frame.f_code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
    driver = frame.f_back
    return bool(kind) and (driver is None or driver.f_code.co_filename != contextlib.__file__)


def _is_foreign(thread: threading.Thread) -> bool:
    """True for a thread that `threading` did not start. It appears late, so it may be older than it seems."""
    return isinstance(thread, threading._DummyThread)  # pyright: ignore[reportPrivateUsage]


def empty_report(policy: Policy) -> Report:
    """Make the report of a prompt without images, or for no prompt at all."""
    return Report(type(policy.method).__name__, policy.place)
