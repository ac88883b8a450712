"""How the measurements of a whole model are printed: the case, and dense, pruned and oracle below each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greedyprune.cli._show import console, size, table

if TYPE_CHECKING:
    from rich.table import Table

    from greedyprune.bench.compared import Case, First, Ratios

SIDES = ("dense", "pruned", "oracle")


def show_heading(row: Case) -> None:
    """Print two lines: the model and where it ran, and the policy and what it did to each prompt."""
    what = "image" if row.images == 1 else "images"
    out = console()
    out.print(f"{row.model}: {row.layers} layers of width {row.width}, {row.dtype} on {row.device}", style="bold")
    out.print(
        f"{row.method} at {row.at}: {row.tokens} -> {row.kept} visual tokens of {row.images} {what}, "
        f"{row.sequence} -> {row.sequence_kept} tokens in the sequence, batch {row.batch}"
    )


def sides_table(*columns: str) -> Table:
    """An empty table with a line for each side, and these columns of numbers."""
    shown = table("", *columns)
    for column in shown.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    return shown


def times_of(row: Ratios, side: str) -> tuple[str, str, str, str]:
    """The side, its time, its speed-up and the interval of it."""
    milliseconds = f"{getattr(row, f'{side}_ms'):.2f} ms"
    if side == "dense":
        return side, milliseconds, "1", ""
    name = "speedup" if side == "pruned" else "oracle_speedup"
    ratio, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
    return side, milliseconds, f"{ratio:.2f}x", f"{low:.2f} to {high:.2f}"


def memory_told(row: First) -> str:
    """Whether the pruned prefill stays within its bound of memory."""
    over = row.pruned_peak_bytes - row.oracle_peak_bytes - row.embeddings_bytes
    bound = f"the oracle's peak and the embeddings of the whole prompt ({size(row.embeddings_bytes)})"
    return f"memory: within {bound}" if over <= 0 else f"memory: {size(over)} more than {bound}"
