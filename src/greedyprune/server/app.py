"""The application: the paths of the server, joined to one pruned model."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from anyio.to_thread import run_sync
from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

import greedyprune
from greedyprune.attach.handle import prune
from greedyprune.server.errors import Refused, of_validation
from greedyprune.server.gate import BEGUN, Gate
from greedyprune.server.jobs import Answer, Job, Piece
from greedyprune.server.metrics import Metrics
from greedyprune.server.prompting import Preparer
from greedyprune.server.replies import Reply, count_of, event
from greedyprune.server.waiting import Room, Waiting
from greedyprune.server.wire import Chat, ChatBody, CountBody, ErrorBody, Prompt
from greedyprune.server.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greedyprune.server.prompting import Prepared
    from greedyprune.server.settings import Settings

PREPARED_AT_A_TIME = 2
"""Requests whose images are decoded at a time. It bounds the memory that pixels take before they are small tensors."""
FAULTS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused, by name"},
    "5XX": {"model": ErrorBody, "description": "The server failed, or stops"},
}
EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "description": "A chunk as JSON, an error as JSON, or [DONE]"}},
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatBody,
        "description": "The answer: whole, or as server-sent events if `stream` is true",
        "content": {"text/event-stream": {"schema": EVENT}},
    },
    **FAULTS,
}


class Service:
    """A pruned model, its queue and its thread. `start` and `stop` are called once each."""

    def __init__(self, model: Any, processor: Any, settings: Settings) -> None:
        self.settings = settings
        self.pruned = prune(model, settings.method, settings.keep, at=settings.at)
        try:
            self.preparer = Preparer(model, processor, self.pruned, settings)
            self.room = Room(settings.queue, settings.batch)
            self.waiting = Waiting(settings.batch, settings.window_ms / 1e3)
            self.metrics = Metrics(lambda: self.room.inside, lambda: len(self.waiting))
            tokenizer = self.preparer.writer.tokenizer
            self.worker = Worker(model, tokenizer, self.pruned, self.waiting, self.room, self.metrics)
        except BaseException:
            self.pruned.remove()
            raise
        self._limit: anyio.CapacityLimiter | None = None

    def start(self) -> None:
        """Start the thread of the model, inside an event loop."""
        self._limit = anyio.CapacityLimiter(PREPARED_AT_A_TIME)
        self.worker.start()

    async def stop(self) -> None:
        """Answer what waits, end the thread, and leave the model as it was."""
        self.waiting.close()
        await run_sync(self.worker.join)
        self.pruned.remove()

    async def prepare(self, body: Prompt, request: Request) -> tuple[Prepared, float]:
        """Prepare a request outside the event loop. -> it, and its deadline. Raises Refused."""
        deadline = request.scope[BEGUN] + self.settings.timeout
        return await run_sync(self.preparer.prepare, body, deadline, limiter=self._limit), deadline

    async def job(self, chat: Chat, request: Request) -> Job:
        """Prepare a request and put it into the queue. Raises Refused."""
        prepared, deadline = await self.prepare(chat, request)
        prepared.check_fit()
        job = Job(chat, prepared, request.scope[BEGUN], deadline, asyncio.get_running_loop())
        self.waiting.put(job)
        return job

    async def answer(self, job: Job, request: Request) -> Answer:
        """Wait for the whole answer. Raises Refused if there is none. The model stops if the client leaves."""
        watch = asyncio.ensure_future(_left(request, job))
        try:
            while True:
                found = await job.next()
                if isinstance(found, Refused):
                    raise found
                if isinstance(found, Answer):
                    self.metrics.answered(job, found)
                    return found
        finally:
            job.cancelled = True
            watch.cancel()

    async def stream(self, job: Job, request: Request) -> AsyncIterator[str]:
        """The answer as server-sent events. An error in the middle is the last event."""
        reply, first = Reply(job), True
        watch = asyncio.ensure_future(_left(request, job))
        try:
            while True:
                found = await job.next()
                if isinstance(found, Refused):
                    yield event(found.body())
                    break
                text = found.text if isinstance(found, Piece) else found.rest
                if text or first:
                    yield event(reply.piece(text, first=first))
                    first = False
                if isinstance(found, Answer):
                    self.metrics.answered(job, found)
                    yield event(reply.last(found))
                    options = job.chat.stream_options
                    if options is not None and options.include_usage:
                        yield event(reply.counts(found))
                    break
            yield "data: [DONE]\n\n"
        finally:
            job.cancelled = True
            watch.cancel()


async def _left(request: Request, job: Job) -> None:
    """Wait until the client leaves, and cancel its job."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancelled = True
    job.events.put_nowait(Refused(499, "disconnected", "the client left."))


def make_app(model: Any, processor: Any, settings: Settings) -> FastAPI:
    """Make the application that serves a model, pruned as `settings` say.

        app = make_app(model, processor, Settings(name="llava", keep=64))

    The model is pruned from now on until the application's lifespan ends, which also answers what still waits. Raises
    ValueError if the processor has no chat template, and the errors of `gp.prune`.
    """
    service = Service(model, processor, settings)
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="greedyprune",
        version=greedyprune.__version__,
        description="OpenAI's chat completions by a vision-language model with fewer visual tokens.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    _add_handlers(app)

    @app.post("/v1/chat/completions", responses=ANSWERS, response_class=JSONResponse)
    async def chat_completions(chat: Annotated[Chat, Body()], request: Request) -> Response:
        """Answer a chat, whole or as a stream of server-sent events."""
        if chat.stream_options is not None and not chat.stream:
            raise Refused(400, "invalid_value", "stream_options needs stream: set it, or leave them out.")
        job = await service.job(chat, request)
        if chat.stream:
            return StreamingResponse(service.stream(job, request), media_type="text/event-stream")
        return JSONResponse(Reply(job).whole(await service.answer(job, request)))

    @app.post("/v1/greedyprune/count", responses=FAULTS, response_model=CountBody)
    async def count(prompt: Annotated[Prompt, Body()], request: Request) -> Any:
        """Preview the visual tokens of a request, with and without pruning, and whether it fits. No answer is made."""
        prepared, _ = await service.prepare(prompt, request)
        return count_of(prepared, settings.name)

    @app.get("/v1/models", responses=FAULTS)
    async def models() -> dict[str, Any]:
        """The models that requests may name: one."""
        return {"object": "list", "data": [card()]}

    @app.get("/v1/models/{name:path}", responses=FAULTS)
    async def model_of(name: str) -> dict[str, Any]:
        """One model."""
        if name != settings.name:
            raise Refused(404, "model_not_found", f"there is no model {name[:100]!r} here: it is {settings.name!r}.")
        return card()

    @app.get("/health", responses=FAULTS)
    async def health() -> dict[str, str]:
        """Whether the model's thread runs."""
        if not service.worker.is_alive():
            raise Refused(503, "stopping", "the thread of the model does not run.")
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=FAULTS)
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    def card() -> dict[str, Any]:
        policy = service.pruned.request().policy
        about = {"object": "model", "created": created, "owned_by": "greedyprune"}
        return {"id": settings.name, **about, "greedyprune": policy.to_dict()}

    _name_model(app, settings.name)
    app.add_middleware(Gate, settings=settings, room=service.room, counted=service.metrics.response)
    return app


def _name_model(app: FastAPI, name: str) -> None:
    """Say in the OpenAPI which model requests may name."""
    made = app.openapi()  # once: the application keeps it
    for body in (Chat, Prompt):
        made["components"]["schemas"][body.__name__]["properties"]["model"]["enum"] = [name]
    for parameter in made["paths"]["/v1/models/{name}"]["get"]["parameters"]:
        parameter["schema"]["enum"] = [name]


def _add_handlers(app: FastAPI) -> None:
    """Give every error OpenAI's form."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        return await refused(request, of_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        told = {404: "there is no such path here", 405: "this path does not take this method"}
        message = f"{told.get(error.status_code, str(error.detail).rstrip('.'))}: see /openapi.json."
        body = Refused(error.status_code, "unknown_path" if error.status_code == 404 else "invalid_request", message)
        return JSONResponse(body.body(), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        found = Refused(500, "server_failed", f"the server failed on this request ({type(error).__name__}).")
        return Response(json.dumps(found.body()), 500, media_type="application/json")
