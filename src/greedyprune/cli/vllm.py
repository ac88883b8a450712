"""`greedyprune vllm-args` and `greedyprune vllm serve`: the options of vLLM that prune images, printed or run with."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from typing import Annotated, Any

import typer

from greedyprune.cli._errors import Failure, misuse
from greedyprune.cli._options import BUDGETS

ARGS = "Example: greedyprune vllm-args llava-hf/llava-1.5-7b-hf --keep 25%"
SERVE = "Example: greedyprune vllm serve Qwen/Qwen2.5-VL-3B-Instruct --keep 25% --requests -- --port 8000"

Model = Annotated[str, typer.Argument(help="A folder or an id of the hub, as for vllm serve. Only its config is read.")]
Keep = Annotated[str | None, typer.Option("--keep", help=f"The server's default: {BUDGETS}. Without it: everything.")]
MethodName = Annotated[
    str | None, typer.Option("--method", help="A name of `greedyprune methods`, or JSON.", show_default="the default")
]
Requests = Annotated[
    bool, typer.Option("--requests", help="Let requests ask for their own budget. Read docs/vllm.md before.")
]

group = typer.Typer(name="vllm", help="Run vLLM with pruned images.", no_args_is_help=True)


def vllm_args(model: Model, keep: Keep = None, method: MethodName = None, requests: Requests = False) -> None:
    """Print the options with which `vllm serve MODEL` prunes images, quoted for a shell."""
    typer.echo(shlex.join(options(model, keep, method, requests)))


@group.command("serve", epilog=SERVE, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    ctx: typer.Context, model: Model, keep: Keep = None, method: MethodName = None, requests: Requests = False
) -> None:
    """Run `vllm serve MODEL` with pruned images. All other options are handed to vLLM as they are."""
    command = ["vllm", "serve", model, *options(model, keep, method, requests), *ctx.args]
    if shutil.which("vllm") is None:
        raise Failure("vLLM is not installed here: pip install vllm, release 0.32 or newer, and greedyprune beside it.")
    os.execvp("vllm", command)  # it becomes vLLM, and gets its signals


def options(model: str, keep: str | None, method: str | None, requests: bool) -> list[str]:
    """The options of `vllm serve`. Raises Failure if they would be refused there."""
    from greedyprune.engines.vllm import HOMES, PREFIX, REFUSED
    from greedyprune.engines.vllm.plan import FIELD, read_policy
    from greedyprune.engines.vllm.tower import Tower
    from greedyprune.registry import DEFAULT

    given: dict[str, Any] = {}
    if method is not None or keep is not None:
        given["method"] = _method(DEFAULT if method is None else method)
    if keep is not None:
        given["keep"] = keep
    if method is not None and keep is None:
        raise misuse("--method needs --keep, the budget of requests that name none: write --keep 25%, say.")
    if keep is None and not requests:
        raise misuse("nothing would be pruned: write --keep 25%, say, or --requests to let requests say it.")
    name = architecture(model)
    if name not in HOMES:
        why = f": {REFUSED[name]}" if name in REFUSED else " yet"
        raise Failure(f"{model!r} is a {name}, which cannot be pruned in vLLM{why}. Known: {', '.join(HOMES)}.")
    try:
        read_policy(given, None, "compact", Tower(config_of(model)))
    except ValueError as error:
        raise misuse(str(error).removeprefix("greedyprune: ")) from error
    overrides = {"architectures": [PREFIX + name], FIELD: given}
    return ["--hf-overrides", json.dumps(overrides), *(["--trust-request-mm-kwargs"] if requests else [])]


def architecture(model: str) -> str:
    """The architecture that a model's config names. Raises Failure if it cannot be read."""
    from transformers import PretrainedConfig

    try:
        plain, _ = PretrainedConfig.get_config_dict(model)
    except (OSError, ValueError) as error:
        raise Failure(f"the config of {model!r} cannot be read: {error}") from error
    named = plain.get("architectures")
    if not isinstance(named, list) or not named:
        raise Failure(f"the config of {model!r} names no architecture: is it a checkpoint of transformers?")
    return str(named[0])


def config_of(model: str) -> Any:
    """A model's config. Raises Failure if this release of transformers cannot read it."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise Failure(f"the config of {model!r} cannot be read: {error}") from error


def _method(text: str) -> Any:
    """A method as the options hold it: its name, or the dict of its JSON."""
    if not text.strip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise misuse(f"--method is no JSON: {error.msg} at character {error.pos + 1}.") from error
