"""A server in a thread of the test's own process, the official client of it, and requests to send."""

from __future__ import annotations

import base64
import functools
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import torch
import uvicorn

import greedyprune as gp
from greedyprune.server import Settings, make_app

NAME = "scenes"


@functools.cache
def items() -> list[Any]:
    """A few pictures with a question each."""
    return gp.testbed.sample(6, seed=3)


def url_of(image: Any, kind: str = "PNG", **more: Any) -> str:
    """A picture as a data URL."""
    held = io.BytesIO()
    image.save(held, kind, **more)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(held.getvalue()).decode()}"


def about(number: int, detail: str | None = None, question: str | None = None) -> dict[str, Any]:
    """The user's turn about one of `items`."""
    item = items()[number]
    picture: dict[str, Any] = {"url": url_of(item.image), **({"detail": detail} if detail else {})}
    text = {"type": "text", "text": question or item.question.text}
    return {"role": "user", "content": [{"type": "image_url", "image_url": picture}, text]}


def said(role: str, text: str) -> dict[str, Any]:
    """A turn of text."""
    return {"role": role, "content": text}


@dataclass(eq=False)
class Served:
    """A server that runs."""

    url: str
    model: Any
    processor: Any
    service: Any
    server: uvicorn.Server
    client: openai.OpenAI
    http: httpx.Client

    def ask(self, *turns: dict[str, Any], pruning: dict[str, Any] | None = None, **more: Any) -> Any:
        """Ask with the official client."""
        extra = {"extra_body": {"greedyprune": pruning}} if pruning is not None else {}
        return self.client.chat.completions.create(model=NAME, messages=list(turns), **extra, **more)

    def post(self, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        """Send a body as it is."""
        return self.http.post(path, json={"model": NAME, **body})

    def reference(self, number: int, **pruning: Any) -> tuple[str, Any]:
        """What `generate` says of one of `items` on the same pruned model. -> text, request"""
        item = items()[number]
        text = gp.testbed.prompt(self.processor, item.question.text)
        inputs = self.processor(images=item.image, text=text, return_tensors="pt")
        request = self.service.pruned.request(**pruning)
        with torch.inference_mode():
            out = request.generate(**inputs, do_sample=False, max_new_tokens=8)
        told = self.processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return told, request

    @contextmanager
    def held(self) -> Iterator[threading.Semaphore]:
        """Inside, the model does not begin a forward until somebody lets it: `release(n)` for n forwards."""
        gate = threading.Semaphore(0)
        hook = self.model.register_forward_pre_hook(lambda *_: gate.acquire(timeout=60) and None)
        try:
            yield gate
        finally:
            hook.remove()
            gate.release(10_000)

    def until(self, true: Any) -> None:
        """Wait until something holds."""
        for _ in range(3000):
            if true():
                return
            time.sleep(0.01)
        raise AssertionError("it never came true")


@contextmanager
def served(model: Any, processor: Any, **settings: Any) -> Iterator[Served]:
    """Serve a model in a thread, on a port of its own."""
    app = make_app(model, processor, Settings(**{"name": NAME, "keep": 36, **settings}))
    config = uvicorn.Config(app, log_level="error", http="h11", timeout_graceful_shutdown=30)
    server, listening = uvicorn.Server(config), socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    key = settings.get("api_key") or "none"
    with (
        httpx.Client(base_url=url, timeout=120, headers={"Authorization": f"Bearer {key}"}, verify=False) as http,
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, http_client=http) as client,
    ):
        found = Served(url, model, processor, app.state.service, server, client, http)
        try:
            found.until(lambda: server.started)
            yield found
        finally:
            server.should_exit = True
            thread.join(60)
            listening.close()
    assert not thread.is_alive()
