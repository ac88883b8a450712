"""`greedyprune bench memory`: the peak memory of a prefill, and its KV cache, dense, pruned and by the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greedyprune.cli._bench_options import Asked, Keep, measure_once, of_a_model
from greedyprune.cli._bench_told import SIDES, memory_told, show_heading, sides_table
from greedyprune.cli._show import console, size

if TYPE_CHECKING:
    from greedyprune.bench.memory import Row
    from greedyprune.cli._bench_model import Opened

EXAMPLES = """Examples:

  greedyprune bench memory

  greedyprune bench memory ./my-llava --keep 64 --batch 8 --device cuda --save memory.csv"""


@of_a_model(without=("rounds",))
def memory(asked: Asked, keep: Keep = None) -> None:
    """Compare the memory of a prefill: dense, pruned, and the oracle, which never had the dropped tokens."""
    policy, _ = asked.policy(keep), asked.setting

    def measured(found: Opened) -> Row:
        from greedyprune.bench.memory import measure

        return measure(found.model, found.inputs, policy, name=found.name)

    measure_once(asked, measured, _show)


def _show(row: Row) -> None:
    out = console()
    show_heading(row)
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
