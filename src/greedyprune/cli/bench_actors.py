"""`greedyprune bench actors`: rows per second of a batch on Ray, with one actor and with two."""

from __future__ import annotations

from typing import Annotated

import typer

from greedyprune.cli._bench_options import Json, Save
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._errors import Failure
from greedyprune.cli._options import Seed
from greedyprune.cli._show import console, print_json, progress, table

EXAMPLES = "Example: greedyprune bench actors --save results/batch/actors.csv"


def actors(
    rows: Annotated[int, typer.Option("--rows", min=8, help="Rows of a run.")] = 400,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs of each, in turn; medians are compared.")] = 3,
    seed: Seed = 0,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Measure a batch on Ray: rows per second with one actor and with two, each with one thread and the bundled model.

    Each actor needs a core of its own, and nothing else may run.
    """
    check(save)
    from greedyprune.bench import actors as bench
    from greedyprune.cli._load import quieten

    quieten()
    try:
        with progress("measuring"):
            measured = bench.measure(rows, runs, seed)
    except (ImportError, RuntimeError) as error:
        raise Failure(str(error)) from error
    plain = [row.to_dict() for row in measured]
    with saved(save, plain):
        if as_json:
            print_json(plain)
            return
        shown = table("actors", "rows/s", "speed-up")
        for row in measured:
            shown.add_row(str(row.actors), f"{row.per_second:.2f}", f"{row.speedup:.2f}x")
        console().print(shown)
