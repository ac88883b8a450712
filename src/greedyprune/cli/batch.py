"""`greedyprune batch`: an answer for every row of a folder of images, a JSONL file or a Parquet file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from greedyprune.cli._errors import Failure, misuse, note
from greedyprune.cli._options import BUDGETS, STAGES, Device, Dtype, Longest, cut_of
from greedyprune.cli._show import console, progress
from greedyprune.registry import DEFAULT

EXAMPLES = """Examples:

  greedyprune batch pages answers.jsonl --model ./qwen --ask "What is the total?"

  greedyprune batch rows.parquet answers.parquet --model ./qwen --keep 64 --together 8 --device cuda

  greedyprune batch rows.jsonl answers.jsonl --model ./qwen --ray --actors 4 --device cuda

A row has "image" or "images", "question" and "id"; the same command goes on with a run that was killed."""

Input = Annotated[Path, typer.Argument(metavar="INPUT", help="A folder of images, a .jsonl or a .parquet file.")]
Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="A .jsonl or a .parquet file.")]
Model = Annotated[
    str, typer.Option("--model", metavar="NAME|DIR|ID", help="llava, qwen, a folder or an id of the hub.")
]
Ask = Annotated[str | None, typer.Option("--ask", metavar="QUESTION", help="The question for rows that have none.")]
PromptFile = Annotated[Path | None, typer.Option("--prompt-file", metavar="TXT", help="A file that holds it.")]
Named = Annotated[str, typer.Option("--method", metavar="NAME|JSON", help="See [bold]greedyprune methods[/bold].")]
Keep = Annotated[str, typer.Option("--keep", metavar="BUDGET", help=f"{BUDGETS}.")]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="STAGE", help=f"Where to cut: {STAGES}.", show_default="the method's own place"),
]
Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="Images lie below this folder.", show_default="the folder of INPUT"),
]
Together = Annotated[int, typer.Option("--together", min=1, help="Rows in one call of generate.")]
Ray = Annotated[bool, typer.Option("--ray", help="Answer with actors of Ray, here or on a cluster.")]
Count = Annotated[int, typer.Option("--actors", min=1, help="With --ray: the number of actors, each with a model.")]
Cpus = Annotated[int, typer.Option("--cpus", min=1, help="With --ray: cores of each actor.")]
Gpus = Annotated[
    float | None,
    typer.Option("--gpus", min=0, help="With --ray: GPUs of each actor.", show_default="1 on cuda, else 0"),
]


def batch(
    input: Input,
    output: Output,
    model: Model,
    ask: Ask = None,
    prompt_file: PromptFile = None,
    method: Named = DEFAULT,
    keep: Keep = "25%",
    at: At = None,
    root: Root = None,
    together: Together = 1,
    use_ray: Ray = False,
    actors: Count = 1,
    cpus: Cpus = 1,
    gpus: Gpus = None,
    max_new_tokens: Longest = 64,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Answer a question about every row of a folder or a file, and go on where a run was stopped."""
    from greedyprune.naming import parse_keep

    chosen, budget, stage = cut_of(method, keep, at, parse_keep)
    question = _question(ask, prompt_file)
    from greedyprune.batch.answerer import Job
    from greedyprune.batch.loop import in_process, run
    from greedyprune.batch.on_ray import Actors
    from greedyprune.batch.sources import open_source
    from greedyprune.cli._load import checked_place, quieten
    from greedyprune.policy import Policy

    quieten()
    try:
        source = open_source(input)
    except ValueError as error:
        raise misuse(f"INPUT {error}") from error
    if source.unread:
        note(f"{len(source.unread)} columns or files of the input are not read, such as {source.unread[0]!r}.")
    checked_place(model)
    work: Any = in_process
    if use_ray:
        on_gpu = float(device.startswith("cuda"))
        work = Actors(actors, cpus, on_gpu if gpus is None else gpus)
    elif actors > 1:
        raise misuse("--actors needs --ray: without it, one process answers.")
    load = partial(load_model, model, device, dtype)
    job = Job(load, Policy(chosen, budget, stage), root or source.root, question, max_new_tokens, together)  # pyright: ignore[reportArgumentType]
    about = {"model": model, "dtype": dtype}
    try:
        with progress(f"answering {len(source)} rows", len(source)) as say:
            done = run(source, output, job, work, about, lambda count: say(done=count))
    except (ValueError, TypeError, NotImplementedError, OSError, RuntimeError) as error:
        raise Failure(str(error)) from error
    new = done.rows - done.before
    told = f"{output}: {done.rows} rows, {new} of them answered now, {done.failed} with an error."
    console().print(told, soft_wrap=True)
    if done.failed:
        raise Failure(f"{done.failed} of {done.rows} rows failed: {str(output)!r} says why, in the column error.")


def load_model(name: str, device: str, dtype: str | None) -> tuple[Any, Any]:
    """A model and its processor, as workers load them."""
    from greedyprune.cli._load import load

    loaded = load(name, device, dtype)
    return loaded.model, loaded.processor


def _question(ask: str | None, file: Path | None) -> str | None:
    """The question for rows that have none; None if all rows bring their own."""
    from greedyprune.cli._prompts import question

    return None if ask is None and file is None else question(ask, file)
