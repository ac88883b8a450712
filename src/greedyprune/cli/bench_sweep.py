"""`greedyprune bench sweep`: the speed-up of a prefill at many budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from greedyprune.cli import _bench_model as options
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._options import Device, Dtype
from greedyprune.cli._show import console, print_json, progress, table
from greedyprune.cli._show import size as in_words
from greedyprune.registry import DEFAULT

if TYPE_CHECKING:
    from greedyprune.bench.prefill import Row

EXAMPLES = """Examples:

  greedyprune bench sweep --keep 10%,25%,50%

  greedyprune bench sweep ./my-llava --keep 32,64,128,192 --save sweep.csv"""

Keeps = Annotated[
    str, typer.Option("--keep", metavar="10%,25%,64", help="Visual tokens kept of each image: numbers or shares.")
]


def sweep(
    model: options.Model = None,
    config: options.Config = None,
    layers: options.Layers = None,
    method: options.Named = DEFAULT,
    keep: Keeps = "5%,10%,25%,50%,75%",
    at: options.At = None,
    batch: options.Batch = 1,
    images: options.Images = 1,
    size: options.Size = None,
    rounds: options.Rounds = 10,
    threads: options.Threads = 1,
    device: Device = "cpu",
    dtype: Dtype = None,
    save: options.Save = None,
    as_json: options.Json = False,
) -> None:
    """Measure a prefill at many budgets, each as `bench prefill` does."""
    options.check_named(model, config, layers)
    policies = [options.policy_of(method, each, at) for each in keep.split(",")]
    setting = options.Setting.of(device, dtype, batch, images, size)
    check(save)
    from greedyprune.bench.clock import threads_set
    from greedyprune.bench.prefill import measure

    measured: list[Row] = []
    with progress("loading the model") as say, threads_set(threads):
        found = options.found(model, config, layers, setting)
        for policy in policies:
            say(f"measuring at {policy.keep}")
            measured.append(
                options.measured(
                    lambda policy=policy: measure(found.model, found.inputs, policy, name=found.name, rounds=rounds)
                )
            )
    rows = [row.to_dict() for row in measured]
    with saved(save, rows):
        if as_json:
            print_json(rows)
        else:
            _show(measured)


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
