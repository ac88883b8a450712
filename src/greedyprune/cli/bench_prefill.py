"""`greedyprune bench prefill`: a user's own model, dense, pruned, and as if it had never had the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from greedyprune.cli import _bench_model as models
from greedyprune.cli._bench_options import Asked, Keep, of_a_model
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._bench_told import SIDES, memory_told, show_heading, sides_table, times_of
from greedyprune.cli._show import console, print_json, progress, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from greedyprune.bench.predict import Prediction
    from greedyprune.bench.prefill import Row
    from greedyprune.policy import Policy

EXAMPLES = """Examples:

  greedyprune bench prefill

  greedyprune bench prefill ./my-llava --keep 64 --at layer:2 --save prefill.csv

  greedyprune bench prefill ./my-qwen --method divprune --batch 8 --device cuda

  greedyprune bench prefill --config qwen2.5-vl-32b --predict --dtype bfloat16"""

Answer = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens of the answer that the end speaks of.")]
Predict = Annotated[
    bool,
    typer.Option("--predict", help="Run a few layers and one alone, and add up the depth; for what does not fit."),
]


@of_a_model()
def prefill(asked: Asked, keep: Keep = None, predict: Predict = False, max_new_tokens: Answer = 128) -> None:
    """Compare a prefill with the same prefill pruned, and with the oracle: the model given a prompt that is that short.

    The vision tower runs before, and its time is told apart.
    """
    policy, _ = asked.policy(keep), asked.setting
    check(asked.save)
    from greedyprune.bench.clock import threads_set

    with progress("loading the model") as say, threads_set(asked.threads):
        row, predicted = models.measured(lambda: _measured(asked, policy, predict, say))
    made = {**(row.to_dict() if row else {}), **(predicted.to_dict() if predicted else {})}
    with saved(asked.save, [made]):
        if asked.as_json:
            print_json(made)
            return
        if row is not None:
            show(row, max_new_tokens, bundled=row.model == "bundled")
        if predicted is not None:
            show_prediction(predicted, row)


def _measured(
    asked: Asked, policy: Policy, predicting: bool, say: Callable[..., None]
) -> tuple[Row | None, Prediction | None]:
    """Measure the whole model, and predict it if that is wanted. A shape that does not fit is predicted alone."""
    from greedyprune.bench.predict import layers_to_run, predict, shallow
    from greedyprune.bench.prefill import measure
    from greedyprune.bench.shapes import config_of

    rounds, setting, few = asked.rounds, asked.setting, None
    if asked.config is not None:
        depth = config_of(asked.config, asked.layers).get_text_config().num_hidden_layers
        if predicting and models.needed(asked.config, asked.layers, setting).problem is not None:
            few = models.built(asked.config, layers_to_run(policy, depth), setting)
            say("predicting")
            return None, predict(few.model, few.inputs, policy, depth, name=asked.config, rounds=rounds)
    found = asked.found()
    say("measuring")
    row = measure(found.model, found.inputs, policy, name=found.name, rounds=rounds)
    if not predicting:
        return row, None
    few = shallow(found.model, layers_to_run(policy, row.layers))
    return row, predict(few, found.inputs, policy, row.layers, name=found.name, rounds=rounds)


def show_prediction(predicted: Prediction, row: Row | None) -> None:
    """Print what is predicted; with the error where the whole model was measured too."""
    out = console()
    out.print(
        f"{predicted.model} predicted: {predicted.run_layers} of {predicted.layers} layers were run, and one alone, "
        f"{predicted.layer_ms:.2f} ms on the whole prompt and {predicted.short_layer_ms:.2f} ms on the pruned one",
        style="bold",
    )
    out.print(
        f"dense {predicted.dense_ms:.1f} ms, pruned {predicted.pruned_ms:.1f} ms, oracle {predicted.oracle_ms:.1f} ms: "
        f"{predicted.speedup:.2f}x, the oracle {predicted.oracle_speedup:.2f}x"
    )
    if row is not None:
        errors = ", ".join(f"{side} {100 * error:+.1f} %" for side, error in predicted.errors(row).items())
        out.print(f"error of the prediction: {errors}")


def show(row: Row, generated: int, *, bundled: bool = False) -> None:
    """Print the whole story of one case on one screen."""
    from greedyprune.cli.demo import TINY

    out = console()
    show_heading(row)
    shown = sides_table("prefill", "speed-up", "95 % interval", "KV cache", "peak memory")
    for side in SIDES:
        held, most = size(getattr(row, f"{side}_cache_bytes")), size(getattr(row, f"{side}_peak_bytes"))
        shown.add_row(*times_of(row, side), held, most)
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
    same = "bit for bit the same" if row.equal else f"differ by up to {row.error:.2g}"
    return [
        f"saving: {100 * row.share:.0f} % of the oracle's ({100 * row.share_low:.0f} to {100 * row.share_high:.0f} %); "
        f"logits {same}",
        memory_told(row),
        f"our hooks: {row.hooks_ms:.2f} ms, {100 * row.hooks_of_dense:.1f} % of the dense prefill, "
        f"{100 * row.hooks_of_pruned:.1f} % of the pruned one",
        f"of that, choosing: {row.select_ms:.2f} ms, {100 * row.select_of_dense:.1f} % and "
        f"{100 * row.select_of_pruned:.1f} %",
        f"vision tower: {row.vision_ms:.2f} ms, not pruned; prefill and tower together: {dense / pruned:.2f}x",
        f"an answer of {generated} tokens: prefill is {100 * part:.0f} % of this run: expect {expected:.2f}x "
        f"(a step takes {row.dense_step_ms:.2f} ms dense, {row.pruned_step_ms:.2f} ms pruned)",
    ]
