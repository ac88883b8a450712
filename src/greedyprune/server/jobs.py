"""A job: one prepared request on its way through the queue and the model, and what its client is told."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from greedyprune.server.errors import Refused

if TYPE_CHECKING:
    from greedyprune.selection import Selection
    from greedyprune.server.prompting import Prepared
    from greedyprune.server.wire import Chat


@dataclass(frozen=True)
class Piece:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, eq=False)
class Answer:
    """A finished answer."""

    text: str
    """The whole text."""
    rest: str
    """The end of it that no `Piece` held."""
    tokens: int
    """The number of tokens that the model wrote, the end token included."""
    reason: str
    """Why it ended: "stop" or "length"."""
    selections: list[Selection]
    batch: int
    """The number of requests that ran with it."""


Event = Piece | Answer | Refused


@dataclass(eq=False)
class Job:
    """One request between the event loop, which made it, and the thread of the model, which answers it."""

    chat: Chat
    prepared: Prepared
    begun: float
    """When the request began, in seconds of `time.monotonic`."""
    deadline: float
    """When the client gets no answer any more."""
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    """True if nobody waits for the answer: the client left, or its time is over."""
    sent: bool = False
    """True if a piece of the answer was told."""
    done: bool = False

    def tell(self, event: Event) -> None:
        """Hand an event to the client's task. The thread of the model calls this."""
        self.sent = self.sent or isinstance(event, Piece)
        self.done = self.done or not isinstance(event, Piece)
        with suppress(RuntimeError):  # the loop is closed, so nobody waits any more
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    async def next(self) -> Event:
        """The next event. If the request's time is over, it is an error, and the model stops working on it."""
        try:
            return await asyncio.wait_for(self.events.get(), max(0.0, self.deadline - time.monotonic()))
        except TimeoutError:
            self.cancelled = True
            return Refused(
                504, "timeout", "the answer took longer than this server allows: ask for fewer tokens, or try later."
            )
