"""`greedyprune bench serve`: throughput and time to the first token of the server, at several budgets."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli import _bench_model as options
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._errors import misuse
from greedyprune.cli._options import Json, Seed, cut_of
from greedyprune.cli._show import console, print_json, progress, table
from greedyprune.registry import DEFAULT

if TYPE_CHECKING:
    from greedyprune.bench.serving import Row

EXAMPLES = """Examples:

  greedyprune bench serve --save results/serving/bundled.csv

  greedyprune bench serve --random --rounds 3 --requests 2 --threads 2 --save results/serving/random.csv

  greedyprune bench serve ./my-llava --concurrency 1,8"""
PICTURES = 16
"""Pictures that requests are about, in turn."""


def serving(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A folder or an id of the hub.", show_default="the bundled model"),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="A LLaVA of 170 M random weights and 576 visual tokens instead.")
    ] = False,
    method: Annotated[str, typer.Option("--method", metavar="NAME|JSON", help="The method that prunes.")] = DEFAULT,
    keep: Annotated[
        str, typer.Option("--keep", metavar="1/4,1/9", help="Budgets that are compared with all tokens.")
    ] = "1/4,1/9",
    concurrency: Annotated[
        str, typer.Option("--concurrency", metavar="1,8,32", help="Numbers of clients at a time.")
    ] = "1,8,32",
    requests: Annotated[int, typer.Option("--requests", min=1, help="Requests of each client in a round.")] = 4,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 16,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds; each runs everything once.")] = 3,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of torch on the CPU.")] = 1,
    seed: Seed = 0,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="CSV", help="Write what is measured to this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the server, with all tokens and with fewer: throughput, and time to the first token."""
    if random and model is not None:
        raise misuse(f"MODEL {model!r} and --random name two models: give one.")
    clients = _numbers(concurrency)
    from greedyprune.naming import parse_keep

    budgets = ["100%", *keep.split(",")]
    for each in budgets:
        cut_of(method, each, None, parse_keep)
    check(save)
    from greedyprune.bench import serving as bench
    from greedyprune.cli._load import load
    from greedyprune.testbed import FOLDERS, sample

    drawn = sample(PICTURES, seed=seed)
    bodies = [bench.body_of(item.image, item.question.text, max_new_tokens) for item in drawn]
    with progress("measuring"), tempfile.TemporaryDirectory() as made:
        if random:
            name, folder, parameters = "random", made, bench.random_model(Path(made), seed)
        else:
            loaded = load(model)
            name, folder = loaded.name, str(FOLDERS["llava"]) if model is None else model
            parameters = sum(weight.numel() for weight in loaded.model.parameters())
            del loaded
        measured = options.measured(
            lambda: bench.measure(
                folder,
                bodies,
                name=name,
                parameters=parameters,
                method=method,
                budgets=budgets,
                concurrencies=clients,
                rounds=rounds,
                each=requests,
                threads=threads,
            )
        )
    rows: list[dict[str, Any]] = [{**row.to_dict(), "rounds": rounds, "threads": threads} for row in measured]
    with saved(save, rows):
        if as_json:
            print_json(rows)
        else:
            _show(measured)


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers of clients."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise misuse(f"--concurrency {text!r}: write numbers of clients, such as 1,8,32.")
    return tuple(int(part) for part in parts)


def _show(measured: list[Row]) -> None:
    first = measured[0]
    console().print(f"{first.model}: {first.parameters / 1e6:.0f} M parameters, {first.method}, {first.tokens} tokens")
    shown = table("clients", "kept", "requests/s", "speed-up", "first token", "speed-up", "whole answer")
    for row in measured:
        shown.add_row(
            *(str(row.concurrency), f"{row.kept} of {row.tokens}", f"{row.per_second:.1f}", f"{row.speedup:.2f}x"),
            *(f"{row.first_ms:.0f} ms", f"{row.first_speedup:.2f}x", f"{row.whole_ms:.0f} ms"),
        )
    console().print(shown)
