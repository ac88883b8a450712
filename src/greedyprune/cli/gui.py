"""`greedyprune app`: a page in the browser that shows what pruning keeps and what the model then answers."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from greedyprune.cli._errors import Failure, misuse, note
from greedyprune.cli._options import Device, Dtype
from greedyprune.cli._show import progress
from greedyprune.testbed import MODELS

EXAMPLES = """Examples:

  greedyprune app

  greedyprune app --model ./my-llava --device cuda --port 8080"""

LOCAL = "127.0.0.1"

Named = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="NAME|DIR|ID", help="A model to ask; may be given several times.", show_default="bundled"
    ),
]
Host = Annotated[
    str, typer.Option("--host", help="Where it listens. 0.0.0.0 lets everyone in the network ask, without a password.")
]
Port = Annotated[
    int | None, typer.Option("--port", min=1, max=65535, help="Its port.", show_default="7860 or the next")
]
Longest = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")]


def app(
    model: Named = None,
    host: Host = LOCAL,
    port: Port = None,
    max_new_tokens: Longest = 64,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Open a page to upload a picture, ask, slide the budget, and see methods side by side."""
    from greedyprune.cli._load import check_device, checked_place, load

    check_device(device)
    names = list(dict.fromkeys(model or MODELS))
    for name in names:
        checked_place(name)
    from greedyprune.app.page import serve  # needs gradio
    from greedyprune.app.session import Session

    sessions = {name: Session(name, partial(load, name, device, dtype), max_new_tokens) for name in names}
    with progress(f"loading {names[0]}"):
        sessions[names[0]].methods()
    where = f"http://{host}" + (f":{port}" if port else " (port 7860, or the next that is free)")
    note(f"the page is at {where}; Ctrl-C ends it.")
    try:
        serve(sessions, host, port)
    except OSError as error:
        raise misuse(f"--port: {error}") from error
    except ValueError as error:  # what gradio says of a host that it cannot reach
        raise Failure(f"the page cannot be served: {error}") from error
