"""The gate in front of the application: the key, the size of the body, and how many requests are inside."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

from greedyprune.server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from greedyprune.server.settings import Settings
    from greedyprune.server.waiting import Room

OPEN = ("/health",)
"""The paths that need no key."""
BEGUN = "greedyprune.begun"
"""The name under which the time of a request's first byte travels in its scope, in seconds of `time.monotonic`."""


class Gate:
    """An ASGI application around another one. A body is read here, within its limit, before anything looks at it.

    `counted`: called with path and status of every response.
    """

    def __init__(self, app: ASGIApp, settings: Settings, room: Room, counted: Callable[[str, int], None]) -> None:
        self._app, self._settings, self._room, self._counted = app, settings, room, counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with its error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                self._counted(getattr(route, "path", "other"), message["status"])
            await send(message)

        entered = False
        scope[BEGUN] = time.monotonic()
        try:
            self._check_key(scope)
            if scope["method"] == "POST":
                self._room.enter()
                entered = True
                receive = await self._read(scope, receive)
            await self._app(scope, receive, counting)
        except Refused as refused:
            await refuse(refused, counting)
        finally:
            if entered:
                self._room.leave()

    def _check_key(self, scope: Scope) -> None:
        wanted = self._settings.api_key
        if wanted is None or scope["path"] in OPEN:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, key = given.partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(key.strip(), wanted.encode()):
            raise Refused(401, "invalid_api_key", "this server needs its key: send it as Authorization: Bearer KEY.")

    async def _read(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body within the limits. -> a `receive` that hands it on, and then what the client does"""
        most = self._settings.body_bytes
        too_large = Refused(413, "body_too_large", f"the body holds more than {most} bytes: send fewer images.")
        said = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not said.isdigit() or int(said) > most:
            raise too_large
        body, more = bytearray(), True
        until = scope[BEGUN] + self._settings.timeout
        while more:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                raise Refused(408, "timeout", "the body did not arrive in time: send it again.") from None
            if message["type"] == "http.disconnect":
                raise Refused(499, "disconnected", "the client left.")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > most:
                raise too_large
        whole: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is None:
                return await receive()
            message, whole = whole, None
            return message

        return replay


async def refuse(refused: Refused, send: Any) -> None:
    """Send an error as a response."""
    body = json.dumps(refused.body()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refused.headers}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
