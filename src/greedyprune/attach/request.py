"""Requests: one wish each, with its own result. Nothing is kept per thread."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import threading
import warnings
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Any

from greedyprune.attach.context import REQUESTS
from greedyprune.selection import PruneWarning, Report, Selection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from greedyprune.hints import Hints
    from greedyprune.policy import Policy

_ENTERED = itertools.count()
"""Numbers requests in the order in which they are entered."""


class Request:
    """One request: its wish, and its own result once it ran. It can run in any thread or task.

        request: gp.Request = pruned.request(keep=32)
        Thread(target=request.generate, kwargs={**inputs, "streamer": streamer}).start()
        ...
        print(request.report())

    `pruned.using(...)` makes the same object for the calls inside a `with` block.
    """

    def __init__(self, requests: Requests, policy: Policy, hints: Hints) -> None:
        self.policy: Policy = policy
        self.hints: Hints = hints
        self._requests = requests
        self._result: tuple[Report, list[Selection]] | None = None
        self._uses, self._number = 0, -1
        self._frame: FrameType | None = None
        self._around: tuple[Request, ...] = ()
        self._threads: weakref.WeakSet[threading.Thread] | None = None

    @property
    def selections(self) -> list[Selection]:
        """What was kept of each image of this request's last prompt; empty until it ran."""
        return [] if self._result is None else list(self._result[1])

    def report(self) -> Report:
        """The counts of this request's last prompt; empty until it ran."""
        return empty_report(self.policy) if self._result is None else self._result[0]

    @property
    def result(self) -> tuple[Report, list[Selection]] | None:
        """Report and selections of this request's last prompt, None until it ran."""
        return self._result

    @property
    def is_open(self) -> bool:
        """True while it runs."""
        return self._uses > 0

    @property
    def of_one_call(self) -> bool:
        """True for a request; False for the handle's own wish, which holds for all calls."""
        return self is not self._requests.own

    def record(self, report: Report | None, selections: list[Selection]) -> None:
        """Take the result of a prompt; the hooks call this. None stands for a prompt without images."""
        self._result = self._requests.last = (report or empty_report(self.policy), selections)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's `generate` with this request's wish, in whichever thread this runs.

            out = pruned.request(keep=32).generate(**inputs)

        Raises RuntimeError if the request ran already, or if its handle was removed; ValueError if it has hints for
        images, and the call brings none.
        """
        model, before = self._requests.generator(), REQUESTS.get()
        self._begin()
        REQUESTS.set((*before, self))
        try:
            return model.generate(*args, **kwargs)
        finally:
            REQUESTS.set(before)
            self._end()

    def __enter__(self) -> Request:
        if self._uses:
            raise RuntimeError("this request is in use: make another with pruned.request(...).")
        self._begin()
        own = inspect.currentframe()
        caller = None if own is None else own.f_back
        # An ExitStack enters from a frame of its own, which ends before the block does.
        if caller is not None and caller.f_code.co_filename != contextlib.__file__:
            self._frame = caller
        self._threads = weakref.WeakSet(threading.enumerate())
        REQUESTS.set((*(each for each in REQUESTS.get() if each.is_open), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A generator may be resumed in another context than the one it began in: no token, which knows only that one.
        self._frame = None
        self._end()
        REQUESTS.set(tuple(each for each in REQUESTS.get() if each is not self))

    def _begin(self) -> None:
        with self._requests.lock:
            self._requests.check_attached()
            if self._number >= 0 and not self._uses:
                raise RuntimeError("this request ran already: make another with pruned.request(...).")
            if self._number < 0:
                self._number = next(_ENTERED)
                around = self._requests.on_stack()
                self._around = () if around is None else (around, *around._around)
            self._uses += 1
            self._requests.open[self] = None

    def _end(self) -> None:
        with self._requests.lock:
            self._uses -= 1
            if not self._uses:
                self._requests.open.pop(self, None)

    def __repr__(self) -> str:
        return f"Request({self.policy.method!r}, keep={self.policy.keep}, at={self.policy.place})"

    # -- asked by `Requests`

    def entered_by(self) -> tuple[int, int] | None:
        """The function that entered it, by the number of its frame, and when; None if no function stands for it."""
        return None if self._frame is None else (self._number, id(self._frame))

    def entered_while(self, other: Request) -> bool:
        """True if it was entered by a call from the block of `other`."""
        return other in self._around

    def belongs_to(self, requests: Requests) -> bool:
        """True if it is a request of this handle."""
        return self._requests is requests

    def is_unseen_by(self, thread: threading.Thread) -> bool:
        """True if it is a block, and this thread was started since it was entered."""
        return self._threads is not None and thread not in self._threads


class Requests:
    """The requests of one handle: which of them is in force for a call, and what was done last."""

    def __init__(self, holders: Sequence[Any], policy: Policy, hints: Hints) -> None:
        self.lock, self.removed = threading.Lock(), False
        self.open: dict[Request, None] = {}
        """The requests that run."""
        self.own = Request(self, policy, hints)
        """The handle's own wish."""
        self.last: tuple[Report, list[Selection]] | None = None
        """The result of the last prompt, of whatever request."""
        self._holders = holders

    def check_attached(self) -> None:
        """Raise RuntimeError if the handle was removed."""
        if self.removed:
            raise RuntimeError("this handle was removed, so nothing would be pruned: call gp.prune(model, ...) again.")

    def generator(self) -> Any:
        """The model whose `generate` a request calls."""
        found = next((each for each in self._holders if hasattr(each, "generate")), None)
        if found is None:
            kind = type(self._holders[0]).__name__
            raise TypeError(f"a {kind} has no generate(): call it inside `with pruned.using(...):`.")
        return found

    def wish(self) -> Request:
        """The wish for a call that starts now: that of the request in force here, or the handle's own."""
        found = self.in_force()
        if found is None and self.open:
            self._warn_if_unseen()
        return found or self.own

    def in_force(self) -> Request | None:
        """The innermost open request around the call that runs now, None outside of all.

        A request is around if a function on the stack entered it, or if this context entered it. The stack is right
        for a generator, wherever it is resumed; the context is right for tasks, and for what they start. If both tell
        of a request, the context's is the inner one if it was entered while the other was on the stack.
        """
        if not self.open:
            return None
        mine = next((r for r in reversed(REQUESTS.get()) if r.is_open and r.belongs_to(self)), None)
        stack = self.on_stack()
        if stack is None or mine is None or mine.entered_while(stack):
            return mine or stack
        return stack

    def on_stack(self) -> Request | None:
        """The request that the innermost function on the stack entered last, None if none did."""
        entered = sorted((by, request) for request in list(self.open) if (by := request.entered_by()) is not None)
        frames = {frame: request for (_, frame), request in entered}
        frame = inspect.currentframe() if frames else None
        while frame is not None:
            if (found := frames.get(id(frame))) is not None:
                return found
            frame = frame.f_back
        return None

    def _warn_if_unseen(self) -> None:
        """Warn in a thread that was started inside a `using` block, which it does not know."""
        thread = threading.current_thread()
        unseen = next((request for request in list(self.open) if request.is_unseen_by(thread)), None)
        if unseen is not None:
            warnings.warn(
                f"this thread was started while {unseen!r} is in force in another one, and does not know it: its "
                f"prompts are pruned as the handle says, keep={self.own.policy.keep}. Start it with "
                "Thread(target=request.generate, ...).",
                PruneWarning,
                stacklevel=2,
            )


def empty_report(policy: Policy) -> Report:
    """The report of a prompt without images, or of none."""
    return Report(type(policy.method).__name__, policy.place)
