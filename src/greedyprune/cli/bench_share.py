"""`greedyprune bench share`: the CPU time of this library inside a call, as a share of dense and pruned prefill."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli._bench_model import Setting, measured
from greedyprune.cli._bench_options import Json, Rounds, Save, Threads
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._options import Device, Dtype
from greedyprune.cli._show import console, print_json, progress, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from greedyprune.bench.share import Row

EXAMPLES = """Examples:

  greedyprune bench share --save results/performance/share.csv

  greedyprune bench share --dtype bfloat16 --batch 1"""

Batches = Annotated[
    list[int] | None,
    typer.Option("--batch", min=1, help="Prompts at a time; may be given again.", show_default="1 and 4"),
]
Layers = Annotated[
    int | None, typer.Option("--layers", min=3, help="Decoder layers of all shapes.", show_default="12 and 8")
]


def share(
    batch: Batches = None,
    layers: Layers = None,
    rounds: Rounds = 5,
    threads: Threads = 1,
    device: Device = "cpu",
    dtype: Dtype = None,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Measure the time of this library's hooks in a prefill, for two methods, two places and two shapes 1024 wide.

    Also whether logits equal the oracle's bit for bit, the KV cache, and the peak memory.
    """
    setting = Setting.of(device, dtype, 1, 1, None)
    kind = setting.kind
    check(save)
    from greedyprune.bench import share as bench

    shapes = [
        replace(shape, layers=layers, batches=tuple(batch) if batch and index == 0 else shape.batches)
        for index, shape in enumerate(bench.SHAPES)
    ]
    found: list[Row] = []
    with progress("measuring") as say:

        def run() -> None:
            for row in bench.measure(_prompt, tuple(shapes), rounds=rounds, threads=threads, device=device, dtype=kind):
                say(f"{row.model}, batch {row.batch}: {row.method} at {row.at}")
                found.append(row)

        measured(run)
    rows = [row.to_dict() for row in found]
    with saved(save, rows):
        if as_json:
            print_json(rows)
        else:
            _show(found)


def _prompt(model: Any, side: int, batch: int) -> Mapping[str, Tensor]:
    """Equal prompts of one square picture, made from the model's config alone."""
    from greedyprune.verify.raw import from_config

    return from_config(model, ((side, side),), tried=False).prompt(((0,),) * batch)


def _show(found: list[Row]) -> None:
    groups: dict[str, list[Row]] = {}
    for row in found:
        of = f"{row.model}, batch {row.batch}: {row.tokens} visual tokens, {row.layers} layers of width {row.width}"
        groups.setdefault(of, []).append(row)
    for title, rows in groups.items():
        console().print(title, style="bold")
        shown = table("method", "at", "kept", "hooks", "of dense", "of pruned", "equal", "memory")
        for row in rows:
            equal = row.equal and row.pruned_cache_bytes == row.oracle_cache_bytes
            shown.add_row(
                *(row.method, row.at, str(row.kept), f"{row.hooks_ms:.1f} ms"),
                *(f"{100 * row.hooks_of_dense:.2f} %", f"{100 * row.hooks_of_pruned:.2f} %"),
                *("yes" if equal else "NO", "within" if row.within_bound else "above"),
            )
        console().print(shown)
    first = found[0]
    console().print(
        f"Medians of {first.rounds} rounds, {first.clock}, {first.threads} thread(s), {first.dtype} on {first.device}; "
        "random weights, image-like features. equal: logits are the oracle's bit for bit, and the cache has its bytes; "
        "memory: within or above the oracle's peak and the embeddings of the whole prompt.",
        style="dim",
    )
