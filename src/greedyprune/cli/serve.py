"""`greedyprune serve`: a pruned model behind OpenAI's HTTP interface."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli._errors import Failure, misuse, note
from greedyprune.cli._options import BUDGETS, STAGES, Device, Dtype, cut_of, text_in
from greedyprune.registry import DEFAULT

if TYPE_CHECKING:
    from greedyprune.server import Settings

EXAMPLES = """Examples:

  greedyprune serve                                  # a small bundled model on http://127.0.0.1:8000

  greedyprune serve llava-hf/llava-1.5-7b-hf --keep 64 --device cuda --host 0.0.0.0 --api-key-file key.txt

  greedyprune serve ./qwen --keep 1/4 --decay 0.5    # earlier screenshots of a chat keep less and less"""
KEY = "GREEDYPRUNE_API_KEY"
"""The environment variable that holds the key."""

Model = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="A folder or an id of the hub.", show_default="the bundled model"),
]


def serve(
    model: Model = None,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME|JSON", help="The method of requests that name none.")
    ] = DEFAULT,
    keep: Annotated[
        str, typer.Option("--keep", metavar="BUDGET", help=f"The budget of images whose request names none: {BUDGETS}.")
    ] = "25%",
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="STAGE", help=f"Where to cut: {STAGES}.", show_default="the method's own place"),
    ] = None,
    decay: Annotated[
        float | None,
        typer.Option("--decay", help="The share of its budget that an image keeps with every later turn of the user."),
    ] = None,
    decay_floor: Annotated[int, typer.Option("--decay-floor", min=0, help="Tokens that --decay leaves.")] = 16,
    host: Annotated[str, typer.Option("--host", help="The address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The port to listen on.")] = 8000,
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name in requests.", show_default="MODEL, or bundled")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option("--chat-template", metavar="FILE", help="A chat template instead of the model's own.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help=f"A file with the key of requests; {KEY} holds it, too."),
    ] = None,
    allow_https: Annotated[
        bool, typer.Option("--allow-https", help="Fetch images from https addresses, never from private ones.")
    ] = False,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Requests that wait or run; more get status 429.")] = 64,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Requests that run together.")] = 8,
    window_ms: Annotated[int, typer.Option("--window-ms", min=0, help="Wait so long for a batch to fill.")] = 5,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds of a request.")] = 120.0,
    grace: Annotated[float, typer.Option("--grace", min=1, help="Seconds for running requests at the end.")] = 60.0,
    max_body_mb: Annotated[int, typer.Option("--max-body-mb", min=1, help="Largest body, in MiB.")] = 32,
    max_images: Annotated[int, typer.Option("--max-images", min=1, help="Most images of a request.")] = 16,
    max_megapixels: Annotated[
        int, typer.Option("--max-megapixels", min=1, max=50, help="Most pixels of a request, in millions.")
    ] = 20,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 1024,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option("--max-prompt-tokens", min=1, help="Longest prompt.", show_default="as the model's positions"),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Serve a model, with fewer visual tokens, as OpenAI's chat completions."""
    chosen, budget, stage = cut_of(method, keep, at, _budgets)
    settings = _settings(
        name=name or model or "bundled",
        method=chosen,
        keep=budget,
        at=stage,
        decay=decay,
        decay_floor=decay_floor,
        api_key=_key(api_key_file),
        allow_https=allow_https,
        queue=queue,
        batch=batch,
        window_ms=window_ms,
        timeout=timeout,
        grace=grace,
        body_bytes=max_body_mb * 2**20,
        images=max_images,
        pixels=max_megapixels * 10**6,
        new_tokens=max_new_tokens,
        prompt_tokens=max_prompt_tokens,
    )
    template = None if chat_template is None else text_in("--chat-template", chat_template)
    from greedyprune.cli._load import load
    from greedyprune.server import serve as run

    loaded = load(model, device, dtype)
    if template is not None:
        loaded.processor.chat_template = template
    if host not in ("127.0.0.1", "::1", "localhost") and settings.api_key is None:
        note(f"warning: {host} is reached from other machines, and requests need no key: set {KEY}.")
    note(f"serving {settings.name!r} on http://{host}:{port}/v1, keep={budget} of {chosen!r}; Ctrl-C stops it.")
    try:
        run(loaded.model, loaded.processor, settings, host=host, port=port)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise Failure(f"{settings.name!r} cannot be served: {error}") from error
    except SystemExit as stop:  # how uvicorn says that the port is taken
        if stop.code:
            raise Failure(f"the server cannot listen on {host}:{port}: choose another --port or --host.") from stop


def _budgets(text: str) -> Any:
    from greedyprune.naming import parse_keep

    return parse_keep(text)


def _settings(**given: Any) -> Settings:
    """The settings. Raises Failure for a value out of range, or if the extra is not installed."""
    from greedyprune.server import Settings, make_app

    del make_app  # imported for its error, which names the extra, before a model is loaded
    try:
        return Settings(**given)
    except ValueError as error:
        raise misuse(f"--{error}") from error


def _key(file: Path | None) -> str | None:
    """The key that requests must bring, out of a file or the environment; a command line shows to every user."""
    found = os.environ.get(KEY) if file is None else text_in("--api-key-file", file)
    if found is None:
        return None
    if not found.strip():
        raise misuse(f"{KEY if file is None else f'--api-key-file {str(file)!r}'} is empty: write a key, or none.")
    return found.strip()
