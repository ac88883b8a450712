"""`greedyprune bench generate`: a whole answer, prompt and steps, dense, pruned and by the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greedyprune.cli._bench_model import measured
from greedyprune.cli._bench_options import Asked, Keep, of_a_model
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._bench_told import SIDES, heading, sides_table, times_of
from greedyprune.cli._options import Longest
from greedyprune.cli._show import console, print_json, progress

if TYPE_CHECKING:
    from greedyprune.bench.generate import Row

EXAMPLES = """Examples:

  greedyprune bench generate --max-new-tokens 16

  greedyprune bench generate ./my-llava --keep 64 --batch 8 --device cuda --save generate.csv"""


@of_a_model(rounds=5)
def whole_answers(asked: Asked, keep: Keep = None, max_new_tokens: Longest = 32) -> None:
    """Compare whole answers, prompt and steps: dense, pruned, and the oracle, which never had the dropped tokens."""
    policy, _ = asked.policy(keep), asked.setting
    check(asked.save)
    from greedyprune.bench.clock import threads_set
    from greedyprune.bench.generate import measure

    with progress("loading the model") as say, threads_set(asked.threads):
        found = asked.found()
        say("measuring")
        row: Row = measured(
            lambda: measure(
                *(found.model, found.inputs, policy), generated=max_new_tokens, name=found.name, rounds=asked.rounds
            )
        )
    with saved(asked.save, [row.to_dict()]):
        if asked.as_json:
            print_json(row.to_dict())
        else:
            _show(row)


def _show(row: Row) -> None:
    out = console()
    for line, style in zip(heading(row), ("bold", None), strict=True):
        out.print(line, style=style)
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
