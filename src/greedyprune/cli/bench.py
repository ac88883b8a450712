"""`greedyprune bench`: measurements, side by side in one run."""

from __future__ import annotations

from typing import Annotated

import typer

from greedyprune.cli._bench_options import Json, Save
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._show import console, print_json, progress, size, table
from greedyprune.cli.bench_actors import EXAMPLES as ACTORS
from greedyprune.cli.bench_actors import actors
from greedyprune.cli.bench_answers import EXAMPLES as GENERATE
from greedyprune.cli.bench_answers import whole_answers
from greedyprune.cli.bench_gpu import EXAMPLES as GPU
from greedyprune.cli.bench_gpu import gpu
from greedyprune.cli.bench_memory import EXAMPLES as MEMORY
from greedyprune.cli.bench_memory import memory
from greedyprune.cli.bench_prefill import EXAMPLES as PREFILL
from greedyprune.cli.bench_prefill import prefill
from greedyprune.cli.bench_quantile import EXAMPLES as QUANTILE
from greedyprune.cli.bench_quantile import quantile
from greedyprune.cli.bench_serve import EXAMPLES as SERVE
from greedyprune.cli.bench_serve import serving
from greedyprune.cli.bench_share import EXAMPLES as SHARE
from greedyprune.cli.bench_share import share
from greedyprune.cli.bench_sweep import EXAMPLES as SWEEP
from greedyprune.cli.bench_sweep import sweep

bench = typer.Typer(name="bench", help="Measure, side by side in one run.", no_args_is_help=True)
bench.command("prefill", epilog=PREFILL)(prefill)
bench.command("generate", epilog=GENERATE)(whole_answers)
bench.command("memory", epilog=MEMORY)(memory)
bench.command("sweep", epilog=SWEEP)(sweep)
bench.command("share", epilog=SHARE)(share)
bench.command("quantile", epilog=QUANTILE)(quantile)
bench.command("gpu", epilog=GPU)(gpu)
bench.command("serve", epilog=SERVE)(serving)
bench.command("actors", epilog=ACTORS)(actors)

Runs = Annotated[int, typer.Option("--runs", min=1, help="Runs per case; medians are compared.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of both.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the features, or of the weights.")]


@bench.command("select", epilog="Example: greedyprune bench select --save results/performance/select.csv")
def bench_select(
    save: Save = None,
    large: Annotated[bool, typer.Option("--large", help="10,000 tokens too; takes many minutes.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="The smallest size alone, in seconds.")] = False,
    runs: Runs = 7,
    threads: Threads = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare a selection with the usual loop (whole Gram matrix, .item() per token), in CPU time.

    GreedyPrune at constant thresholds and at its own, and the default method. Also their memory.
    """
    from greedyprune.bench import select

    check(save)
    sizes = select.SIZES[:1] if quick else select.SIZES + select.LARGE if large else select.SIZES
    measured: list[select.Row] = []
    with progress("measuring") as step:
        for row in select.measure(sizes, runs, threads, seed, () if quick else select.ALONE):
            step(text=f"{row.method}: {row.tokens} -> {row.kept} tokens of width {row.width}, {row.regime}")
            measured.append(row)
    rows = [row.to_dict() for row in measured]
    with saved(save, rows):
        if as_json:
            print_json(rows)
            return
        shown = table("method", "tokens", "regime", "loop", "here", "ratio", "of floor", "memory", "same")
        for row in measured:
            shown.add_row(
                *(row.method, f"{row.tokens} -> {row.kept} of {row.width}", row.regime),
                *("-" if row.usual_ms is None else f"{row.usual_ms:.1f} ms", f"{row.greedyprune_ms:.1f} ms"),
                *("-" if ratio is None else f"{ratio:.1f}x" for ratio in (row.ratio, row.of_floor)),
                *(size(row.peak_bytes), {None: "-", True: "yes", False: "NO"}[row.exact]),
            )
        console().print(shown)
        console().print(
            f"Medians of {runs} runs, thread CPU time, {threads} thread(s), image-like features of seed {seed}. "
            "own: the method as it is; GreedyPrune's loop is given its threshold for free. of floor: how much longer "
            "than norms, saliencies, one gather and one product. memory: above the input. same: the tokens of the loop "
            "in float64."
        )


@bench.command("peers", epilog="Example: greedyprune bench peers --save results/performance/peers.csv")
def bench_peers(save: Save = None, runs: Runs = 7, threads: Threads = 1, seed: Seed = 0, as_json: Json = False) -> None:
    """Compare DivPrune's and CDPruner's engines here with the published formulations, in CPU time."""
    from greedyprune.bench import peers

    check(save)
    measured: list[peers.Row] = []
    with progress("measuring") as step:
        for row in peers.measure(peers.SIZES, runs, threads, seed):
            step(text=f"{row.method}: {row.tokens} -> {row.kept} tokens of width {row.width}")
            measured.append(row)
    rows = [row.to_dict() for row in measured]
    with saved(save, rows):
        if as_json:
            print_json(rows)
            return
        shown = table("method", "tokens", "kept", "width", "published", "here", "ratio", "same", "exact")
        for row in measured:
            shown.add_row(
                *(row.method, str(row.tokens), str(row.kept), str(row.width)),
                *(f"{row.published_ms:.1f} ms", f"{row.greedyprune_ms:.1f} ms", f"{row.ratio:.1f}x"),
                *("yes" if row.equal else "no", "yes" if row.exact else "NO"),
            )
        console().print(shown)
        console().print(
            f"Medians of {runs} runs, thread CPU time, {threads} thread(s), image-like features of seed {seed}. "
            "same: the published form, in float32, kept the same tokens; exact: ours are those of that form in float64."
        )


@bench.command("growth", epilog="Example: greedyprune bench growth --save results/performance/growth.csv")
def bench_growth(
    save: Save = None,
    quick: Annotated[bool, typer.Option("--quick", help="Up to 2,304 tokens alone, in seconds.")] = False,
    width: Annotated[int, typer.Option("--width", min=1, help="Width of the features.")] = 1024,
    runs: Runs = 3,
    threads: Threads = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure the time and memory of selections against the number of tokens, up to 20,160; 1/9 are kept."""
    from greedyprune.bench import growth

    check(save)
    measured: list[growth.Row] = []
    with progress("measuring") as step:
        for row in growth.measure(growth.QUICK if quick else growth.SIZES, width, runs, threads, seed):
            step(text=f"{row.method}: {row.tokens} -> {row.kept} tokens of width {row.width}")
            measured.append(row)
    rows = [row.to_dict() for row in measured]
    with saved(save, rows):
        if as_json:
            print_json(rows)
            return
        shown = table("method", "tokens", "kept", "time", "memory", "of the input")
        for row in measured:
            shown.add_row(
                *(row.method, str(row.tokens), str(row.kept), f"{row.ms:.1f} ms"),
                *(size(row.peak_bytes), f"{row.peak_of_input:.2f}x"),
            )
        console().print(shown)
        console().print(
            f"Medians of {runs} runs, thread CPU time, {threads} thread(s), image-like features of width {width} and "
            f"seed {seed}. memory: the most bytes at a time, above the input."
        )


@bench.command("hooks", epilog="Example: greedyprune bench hooks --save results/performance/hooks.csv")
def bench_hooks(
    save: Save = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs of steps per case, in random order.")] = 300,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare a decode step of a pruned model with the same step without hooks, on one thread and on all."""
    from greedyprune.bench import hooks

    check(save)
    measured: list[hooks.Row] = []
    with progress("measuring") as step:
        for row in hooks.measure(hooks.SIZES, pairs, hooks.usual_threads(), seed):
            step(text=f"{row.stage}: {row.layers} layers of width {row.width}, {row.threads} thread(s)")
            measured.append(row)
    rows = [row.to_dict() for row in measured]
    with saved(save, rows):
        if as_json:
            print_json(rows)
            return
        shown = table(
            "at", "ragged", "model", "threads", "bare", "hooked", "ratio", "of CPU time", "hooks", "operations"
        )
        for row in measured:
            shown.add_row(
                *(row.stage, "yes" if row.ragged else "no"),
                *(f"{row.parameters / 1e6:.0f} M, {row.layers} layers", str(row.threads)),
                *(f"{row.bare_ms:.2f} ms", f"{row.hooked_ms:.2f} ms"),
                f"{row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f})",
                f"{row.cpu_ratio:.3f} ({row.cpu_low:.3f} to {row.cpu_high:.3f})",
                f"{row.extra_us:.0f} us",
                f"{row.bare_operations}, {row.hooked_operations}",
            )
        console().print(shown)
        console().print(
            f"Medians of {pairs} pairs of steps over caches of equal size, with 95 % intervals. hooks: the CPU time "
            "that they add; operations: tensor operations of a step, without hooks and with. Models with random "
            "weights."
        )
