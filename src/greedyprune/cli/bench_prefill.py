"""`greedyprune bench prefill`: a user's own model, dense, pruned, and as if it had never had the tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greedyprune.cli import _bench_model as options
from greedyprune.cli._bench_rows import check, end, write
from greedyprune.cli._options import Device, Dtype
from greedyprune.cli._show import console, print_json, progress, size, table
from greedyprune.registry import DEFAULT

if TYPE_CHECKING:
    from greedyprune.bench.prefill import Row

EXAMPLES = """Examples:

  greedyprune bench prefill

  greedyprune bench prefill ./my-llava --keep 64 --at layer:2 --save prefill.csv

  greedyprune bench prefill ./my-qwen --method divprune --batch 8 --device cuda"""

Answer = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens of the answer that the end speaks of.")]
Save = Annotated[Path | None, typer.Option("--save", metavar="CSV", help="Write the row to this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


def prefill(
    model: options.Model = None,
    method: options.Named = DEFAULT,
    keep: options.Keep = "25%",
    at: options.At = None,
    batch: options.Batch = 1,
    images: options.Images = 1,
    size: options.Size = None,
    rounds: options.Rounds = 20,
    threads: options.Threads = 1,
    max_new_tokens: Answer = 128,
    device: Device = "cpu",
    dtype: Dtype = None,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Compare a prefill with the same prefill pruned, and with the oracle: the model given a prompt that is that short.

    The vision tower runs before, and its time is told apart.
    """
    policy, pictures = options.policy_of(method, keep, at), options.size_of(size)
    check(save)
    from greedyprune.bench.clock import threads_set
    from greedyprune.bench.prefill import measure

    with progress("loading the model") as say, threads_set(threads):
        found = options.opened(model, device, dtype, batch, images, pictures)
        say("measuring")
        row: Row = options.measured(
            lambda: measure(found.model, found.inputs, policy, name=found.name, rounds=rounds),
        )
    problem = write(save, [row.to_dict()])
    if as_json:
        print_json(row.to_dict())
    else:
        show(row, max_new_tokens, bundled=found.name == "bundled")
    end(problem)


def show(row: Row, generated: int, *, bundled: bool = False) -> None:
    """Print the whole story of one case on one screen."""
    from greedyprune.cli.demo import TINY

    out, what = console(), "image" if row.images == 1 else "images"
    out.print(f"{row.model}: {row.layers} layers of width {row.width}, {row.dtype} on {row.device}", style="bold")
    out.print(
        f"{row.method} at {row.at}: {row.tokens} -> {row.kept} visual tokens of {row.images} {what}, "
        f"{row.sequence} -> {row.sequence_kept} tokens in the sequence, batch {row.batch}"
    )
    shown = table("", "prefill", "speed-up", "95 % interval", "KV cache")
    for column in shown.columns[1:]:
        column.justify = "right"
    shown.add_row("dense", f"{row.dense_ms:.2f} ms", "1", "", size(row.dense_cache_bytes))
    for name, ms, ratio, low, high, held in (
        ("pruned", row.pruned_ms, row.speedup, row.speedup_low, row.speedup_high, row.pruned_cache_bytes),
        (
            *("oracle", row.oracle_ms, row.oracle_speedup, row.oracle_speedup_low, row.oracle_speedup_high),
            row.oracle_cache_bytes,
        ),
    ):
        shown.add_row(name, f"{ms:.2f} ms", f"{ratio:.2f}x", f"{low:.2f} to {high:.2f}", size(held))
    out.print(shown)
    for line in story(row, generated):
        out.print(line)
    out.print(
        f"Medians of {row.rounds} rounds, {row.clock}, {row.threads} thread(s). oracle: the same model, which never "
        f"had the dropped tokens. FLOPs of the decoder, dense / pruned: {row.flops_ratio:.2f}.",
        style="dim",
    )
    if bundled:
        out.print(TINY, style="dim")


def story(row: Row, generated: int) -> list[str]:
    """What the numbers say, in sentences."""
    from greedyprune.bench.prefill import whole

    part, expected = whole(row, generated)
    dense, pruned = row.vision_ms + row.dense_ms, row.vision_ms + row.pruned_ms
    same = "equal the oracle's bit for bit" if row.equal else f"differ from the oracle's by up to {row.error:.2g}"
    return [
        f"saving: {100 * row.share:.0f} % of the oracle's ({100 * row.share_low:.0f} to {100 * row.share_high:.0f} %); "
        f"logits {same}",
        f"our hooks: {row.hooks_ms:.2f} ms, {100 * row.hooks_of_dense:.1f} % of the dense prefill, "
        f"{100 * row.hooks_of_pruned:.1f} % of the pruned one",
        f"of that, choosing: {row.select_ms:.2f} ms, {100 * row.select_of_dense:.1f} % and "
        f"{100 * row.select_of_pruned:.1f} %",
        f"vision tower: {row.vision_ms:.2f} ms, not pruned; prefill and tower together: {dense / pruned:.2f}x",
        f"an answer of {generated} tokens: prefill is {100 * part:.0f} % of this run: expect {expected:.2f}x "
        f"(a step takes {row.dense_step_ms:.2f} ms dense, {row.pruned_step_ms:.2f} ms pruned)",
    ]
