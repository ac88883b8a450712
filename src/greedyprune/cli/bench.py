"""`greedyprune bench`: measurements, side by side in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from greedyprune.cli._errors import Failure
from greedyprune.cli._show import console, print_json, progress, table

bench = typer.Typer(name="bench", help="Measure, side by side in one run.", no_args_is_help=True)


@bench.command("select", epilog="Example: greedyprune bench select --save results/bench/select.csv")
def bench_select(
    save: Annotated[Path | None, typer.Option("--save", metavar="CSV", help="Write the rows to this file.")] = None,
    large: Annotated[bool, typer.Option("--large", help="10,000 tokens too; takes many minutes.")] = False,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs per case; medians are compared.")] = 7,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of both.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Draws the features.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """GreedyPrune's selection against the usual Python loop (whole Gram matrix, .item() per token), in CPU time."""
    from greedyprune.bench import rows, select

    if save is not None and save.is_dir():
        raise Failure(f"--save {save} is a folder: name a CSV file.")
    sizes = select.SIZES + select.LARGE if large else select.SIZES
    measured: list[select.Row] = []
    with progress("measuring") as step:
        for row in select.measure(sizes, runs, threads, seed):
            step(text=f"{row.tokens} -> {row.kept} tokens of width {row.width}, {row.regime}")
            measured.append(row)
    if save is not None:
        try:
            rows.write(save, [row.to_dict() for row in measured])
        except OSError as error:
            raise Failure(f"cannot write {save}: {error.strerror}.") from error
    if as_json:
        print_json([row.to_dict() for row in measured])
        return
    shown = table(
        "tokens", "kept", "width", "regime", "looked at", "usual loop", "greedyprune", "ratio", "same", "exact"
    )
    for row in measured:
        shown.add_row(
            *(str(row.tokens), str(row.kept), str(row.width), row.regime, str(row.visited)),
            *(
                f"{row.usual_ms:.1f} ms",
                f"{row.greedyprune_ms:.1f} ms",
                f"{row.ratio:.1f}x",
                "yes" if row.equal else "no",
                "yes" if row.exact else "NO",
            ),
        )
    console().print(shown)
    console().print(
        f"Medians of {runs} runs, thread CPU time, {threads} thread(s), image-like features of seed {seed}. "
        "same: the loop, in float32, returned the same tokens; exact: ours are those of the loop in float64."
    )
