"""`greedyprune bench memory`: the peak memory of a prefill, and its KV cache, dense, pruned and by the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greedyprune.cli._bench_model import measured
from greedyprune.cli._bench_options import Asked, Keep, of_a_model
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._bench_told import SIDES, heading, memory_told, sides_table
from greedyprune.cli._show import console, print_json, progress, size

if TYPE_CHECKING:
    from greedyprune.bench.memory import Row

EXAMPLES = """Examples:

  greedyprune bench memory

  greedyprune bench memory ./my-llava --keep 64 --batch 8 --device cuda --save memory.csv"""


@of_a_model(without=("rounds",))
def memory(asked: Asked, keep: Keep = None) -> None:
    """Compare the memory of a prefill: dense, pruned, and the oracle, which never had the dropped tokens."""
    policy, _ = asked.policy(keep), asked.setting
    check(asked.save)
    from greedyprune.bench.clock import threads_set
    from greedyprune.bench.memory import measure

    with progress("loading the model") as say, threads_set(asked.threads):
        found = asked.found()
        say("measuring")
        row: Row = measured(lambda: measure(found.model, found.inputs, policy, name=found.name))
    with saved(asked.save, [row.to_dict()]):
        if asked.as_json:
            print_json(row.to_dict())
        else:
            _show(row)


def _show(row: Row) -> None:
    out = console()
    for line, style in zip(heading(row), ("bold", None), strict=True):
        out.print(line, style=style)
    shown = sides_table("peak memory", "of dense", "KV cache", "of dense")
    for side in SIDES:
        most, held = getattr(row, f"{side}_peak_bytes"), getattr(row, f"{side}_cache_bytes")
        shares = f"{100 * most / row.dense_peak_bytes:.0f} %", f"{100 * held / row.dense_cache_bytes:.0f} %"
        shown.add_row(side, size(most), shares[0], size(held), shares[1])
    out.print(shown)
    out.print(memory_told(row))
    out.print(
        f"Peak: the most bytes at a time during the prefill, KV cache included, above the weights "
        f"({size(row.weights_bytes)}) and the inputs. Vision runs before.",
        style="dim",
    )
