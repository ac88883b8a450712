"""`greedyprune bench gpu`: everything that only a GPU can say, in ten minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli import _bench_model as options
from greedyprune.cli._errors import Failure
from greedyprune.cli._options import Device, Json
from greedyprune.cli._outputs import check_path, make_folder, written
from greedyprune.cli._show import console, print_json, progress, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from greedyprune.bench.gpu import Rows

EXAMPLES = """Examples:

  greedyprune bench gpu --save results/performance

  greedyprune bench gpu --tiny --device cpu"""

PARTS = ("parity", "select", "prefill", "generate", "capture")
Save = Annotated[
    Path | None, typer.Option("--save", metavar="FOLDER", help="Write gpu-*.csv into this folder, part by part.")
]
Minutes = Annotated[
    float, typer.Option("--minutes", min=0.0, help="After so many, nothing new begins: rows say what is left out.")
]
Tiny = Annotated[bool, typer.Option("--tiny", help="Small sizes, to try the command.")]


def gpu(
    device: Device = "cuda",
    minutes: Minutes = 9.0,
    tiny: Tiny = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Compare a GPU's decisions with the CPU's, and time selections, prefills and answers of models of real shapes.

    The models have random weights. Exits with 1 if a decision differs.
    """
    setting = options.Setting.of(device, None, 1, 1, None)
    if save is not None:
        make_folder("--save", save)
        for part in PARTS:
            check_path("--save", save / f"gpu-{part}.csv")
    import torch

    from greedyprune.bench import gpu as bench
    from greedyprune.bench import rows
    from greedyprune.verify.raw import from_config

    problems: list[Failure] = []

    def done(part: str, made: Rows) -> None:
        path = None if save is None else save / f"gpu-{part}.csv"
        if (problem := written("--save", path, lambda path: rows.write(path, bench.level(made)))) is not None:
            problems.append(problem)

    plan = bench.TINY if tiny else bench.Plan()

    def prompts(model: Any) -> Callable[[Any], Any]:
        return from_config(model, (plan.size,), tried=False).prompt

    with progress("measuring") as say:
        found = bench.run(torch.device(setting.device), plan, 60 * minutes, prompts, say, done)
    if as_json:
        print_json(found)
    else:
        _show(found)
    if problems:
        raise problems[-1]
    wrong = sorted({str(row["method"]) for row in found["parity"] if row["equal"] != row["selections"]})
    if wrong:
        raise Failure(f"{device} decides otherwise than the CPU: {', '.join(wrong)}.")


def _show(found: dict[str, Rows]) -> None:
    out = console()
    equal, total = (sum(int(str(row[name])) for row in found["parity"]) for name in ("equal", "selections"))
    out.print(f"{equal} of {total} selections are the CPU's.", style="bold")
    shown = table("selection", "engine", "images", "tokens", "kept", "width", "time", "graph")
    for row in found["select"]:
        graph = "yes" if row["graph"] else str(row["why"])
        shown.add_row(
            *(str(row[name]) for name in ("method", "engine", "images", "tokens", "kept", "width")),
            *(f"{row['us']:.1f} us", graph),
        )
    out.print(shown)
    for part in ("prefill", "generate"):
        shown = table(part, "method", "batch", "dense", "pruned", "oracle", "speed-up")
        for row in found.get(part, []):
            some = (str(row[name]) for name in ("model", "method", "batch"))
            if row["left_out"]:
                shown.add_row(*some, str(row["left_out"]))
                continue
            times = (f"{row[f'{side}_ms']:.2f} ms" for side in ("dense", "pruned", "oracle"))
            shown.add_row(*some, *times, f"{row['speedup']:.2f}x")
        out.print(shown)
    for row in found.get("capture", []):
        said = row["left_out"] or row["why"] or ("captured, equal logits" if row["equal"] else "captured, OTHER LOGITS")
        out.print(f"{row['model']}, {row['method']}: a whole pruned prefill in a CUDA graph: {said}")
