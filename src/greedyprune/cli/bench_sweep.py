"""`greedyprune bench sweep`: the speed-up of a prefill at many budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from greedyprune.cli._bench_model import measured
from greedyprune.cli._bench_options import Asked, of_a_model
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._options import BUDGETS
from greedyprune.cli._show import console, print_json, progress, table
from greedyprune.cli._show import size as in_words

if TYPE_CHECKING:
    from greedyprune.bench.prefill import Row

EXAMPLES = """Examples:

  greedyprune bench sweep --keep 10%,25%,50%

  greedyprune bench sweep ./my-llava --keep 32,64,128,192 --save sweep.csv"""

Keeps = Annotated[str, typer.Option("--keep", metavar="BUDGET,...", help=f"Between commas, {BUDGETS}.")]


@of_a_model(rounds=10)
def sweep(asked: Asked, keep: Keeps = "5%,10%,25%,50%,75%") -> None:
    """Measure a prefill at many budgets, each as `bench prefill` does."""
    policies, _ = [asked.policy(each) for each in keep.split(",")], asked.setting
    check(asked.save)
    from greedyprune.bench.clock import threads_set
    from greedyprune.bench.prefill import measure

    found_rows: list[Row] = []
    with progress("loading the model") as say, threads_set(asked.threads):
        found = asked.found()
        for policy in policies:
            say(f"measuring at {policy.keep}")
            found_rows.append(
                measured(
                    lambda policy=policy: measure(
                        found.model, found.inputs, policy, name=found.name, rounds=asked.rounds
                    )
                )
            )
    rows = [row.to_dict() for row in found_rows]
    with saved(asked.save, rows):
        if asked.as_json:
            print_json(rows)
        else:
            _show(found_rows)


def _show(measured: list[Row]) -> None:
    first = measured[0]
    console().print(
        f"{first.model}: {first.layers} layers of width {first.width}, {first.dtype} on {first.device}; "
        f"{first.method} at {first.at}, batch {first.batch}"
    )
    shown = table("kept", "share", "speed-up", "95 % interval", "oracle", "of its saving", "KV cache")
    for row in measured:
        shown.add_row(
            *(f"{row.kept} of {row.tokens}", f"{100 * row.kept / row.tokens:.0f} %", f"{row.speedup:.2f}x"),
            f"{row.speedup_low:.2f} to {row.speedup_high:.2f}",
            *(f"{row.oracle_speedup:.2f}x", f"{100 * row.share:.0f} %", in_words(row.pruned_cache_bytes)),
        )
    console().print(shown)
    console().print(f"Medians of {first.rounds} rounds, {first.clock}, {first.threads} thread(s).")
