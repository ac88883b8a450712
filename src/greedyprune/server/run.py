"""Run the server until it is told to stop; then what runs and waits is still answered."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import uvicorn

from greedyprune.server.app import make_app

if TYPE_CHECKING:
    from greedyprune.server.settings import Settings


def serve(model: Any, processor: Any, settings: Settings, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve a model over HTTP until SIGTERM or Ctrl-C arrives.

        serve(model, processor, Settings(name="llava", keep=64), port=8000)

    Then no new connection is accepted, and what is inside is answered, for at most `settings.grace` seconds. Raises the
    errors of `make_app`.
    """
    app = make_app(model, processor, settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.grace)),
        h11_max_incomplete_event_size=64 * 1024,
        http="h11",
    )
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises the signal again when it has stopped in good order
    try:
        uvicorn.Server(config).run()
    finally:
        signal.signal(signal.SIGTERM, before)
