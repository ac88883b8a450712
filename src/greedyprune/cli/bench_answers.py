"""`greedyprune bench generate`: a whole answer, prompt and steps, dense, pruned and by the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greedyprune.cli._bench_options import Asked, Keep, measure_once, of_a_model
from greedyprune.cli._bench_told import SIDES, show_heading, sides_table, times_of
from greedyprune.cli._options import Longest
from greedyprune.cli._show import console

if TYPE_CHECKING:
    from greedyprune.bench.generate import Row
    from greedyprune.cli._bench_model import Opened

EXAMPLES = """Examples:

  greedyprune bench generate --max-new-tokens 16

  greedyprune bench generate ./my-llava --keep 64 --batch 8 --device cuda --save generate.csv"""


@of_a_model(rounds=5)
def whole_answers(asked: Asked, keep: Keep = None, max_new_tokens: Longest = 32) -> None:
    """Compare whole answers, prompt and steps: dense, pruned, and the oracle, which never had the dropped tokens."""
    policy, _ = asked.policy(keep), asked.setting

    def measured(found: Opened) -> Row:
        from greedyprune.bench.generate import measure

        sizes = {"generated": max_new_tokens, "rounds": asked.rounds}
        return measure(found.model, found.inputs, policy, name=found.name, **sizes)

    measure_once(asked, measured, _show)


def _show(row: Row) -> None:
    out = console()
    show_heading(row)
    shown = sides_table("answer", "speed-up", "95 % interval")
    for side in SIDES:
        shown.add_row(*times_of(row, side))
    out.print(shown)
    dense, pruned = row.vision_ms + row.dense_ms, row.vision_ms + row.pruned_ms
    said = "the same tokens as" if row.equal else "other tokens than"
    out.print(
        f"vision tower: {row.vision_ms:.1f} ms, not pruned; answer and tower together: {dense / pruned:.2f}x\n"
        f"of {row.generated} tokens, the pruned model said {said} the oracle\n"
        f"Medians of {row.rounds} rounds, {row.clock}, {row.threads} thread(s)."
    )
