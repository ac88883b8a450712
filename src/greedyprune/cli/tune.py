"""`greedyprune tune`: the smallest budget that costs no more accuracy than the user allows, on their own questions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli import _own_questions as own
from greedyprune.cli._errors import Failure, misuse
from greedyprune.cli._options import BatchSize, Device, Dtype, Json, method_of
from greedyprune.cli._outputs import check_folder, check_path, written
from greedyprune.cli._plan import Running, budgets_of
from greedyprune.cli._show import console, print_json, progress, table
from greedyprune.registry import DEFAULT

if TYPE_CHECKING:
    from greedyprune.eval import Item
    from greedyprune.eval.tune import Tried
    from greedyprune.policy import Policy

EXAMPLES = """Examples:

  greedyprune tune --data my-questions --model ./my-llava --loss 2 --save fast.json

  greedyprune tune --data val.json --images images --model ./my-qwen --method divprune --keep 1/2,1/4,1/8 --loss 5"""

KEEPS = "3/4,1/2,1/3,1/4,1/6,1/9,1/12,1/18,1/36"

Model = Annotated[str, typer.Option("--model", metavar="NAME|DIR|ID", help="llava, qwen, a folder or an id.")]
Named = Annotated[str, typer.Option("--method", metavar="NAME|JSON", help="The method to tune.")]
Keep = Annotated[str, typer.Option("--keep", metavar="BUDGET,...", help="The budgets to try, largest first.")]
At = Annotated[
    str | None, typer.Option("--at", metavar="STAGE", help="Where to cut.", show_default="the method's own place")
]
Loss = Annotated[
    float, typer.Option("--loss", min=0.01, max=99, help="Points of accuracy that may be lost, in per cent.")
]
Save = Annotated[Path | None, typer.Option("--save", metavar="JSON", help="Write the budget found as a preset.")]
Run = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="Keep answers here; a run that stopped goes on.")
]
Each = Annotated[int | None, typer.Option("--questions", min=1, help="The largest number of questions of each task.")]


def tune(
    data: own.Data,
    model: Model = "llava",
    method: Named = DEFAULT,
    keep: Keep = KEEPS,
    at: At = None,
    loss: Loss = 2.0,
    save: Save = None,
    run: Run = None,
    questions: Each = None,
    images: own.Images = None,
    template: own.Template = None,
    suffix: own.Suffix = None,
    metric: own.Metric = None,
    batch: BatchSize = 32,
    max_new_tokens: own.Longest = own.LONGEST,
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Find the smallest budget whose accuracy on your own questions stays within a chosen loss.

    Budgets are tried from the largest to the smallest, until the 95 % interval of one reaches beyond the loss.
    """
    asking = own.asking(images, template, suffix, metric)
    policy = _policy(method, at)
    budgets = budgets_of("--keep", keep)
    check_path("--save", save)
    check_folder("--run", run)
    items = own.items(data, questions, asking)
    from greedyprune.cli import _models
    from greedyprune.eval.tune import check_pictures, tuned

    try:
        check_pictures(items, loss / 100)
    except ValueError as error:
        raise misuse(f"--loss {loss:g}: {error}") from error
    engine = _models.engine(model, Running(device, dtype, 1, batch, max_new_tokens))
    with tempfile.TemporaryDirectory() as passing, progress(f"{model}: tuning") as say:
        more: dict[str, Any] = {"loss": loss / 100, "at": policy.at, "batch": batch, "about": {"model": model}}
        try:
            found = list(tuned(engine, items, policy.method, budgets, run or Path(passing), say=say, **more))
        except (OSError, ValueError, RuntimeError) as error:
            raise Failure(f"{model}: {error}") from error
    _finish(found, items, model, policy, loss, save, as_json)


def _policy(method: str, at: str | None) -> Policy:
    """The method and the place that are tuned; the budget of this policy stands for none."""
    from greedyprune.policy import Policy

    try:
        policy = Policy(method_of(method), 1, at)  # pyright: ignore[reportArgumentType]
        policy.check_stages()
        return policy
    except ValueError as error:
        raise misuse(f"--at: {error}") from error


def _finish(
    found: list[Tried], items: list[Item], model: str, policy: Policy, loss: float, save: Path | None, as_json: bool
) -> None:
    """Print what was tried, write the preset, and fail if no budget holds."""
    from dataclasses import replace

    from greedyprune.preset import Preset

    best = next((each for each in reversed(found) if each.holds), None)
    problem = None
    if best is not None:
        note = (
            f"{100 * best.accuracy:.1f} % right, {100 * best.dense:.1f} % with all tokens, a difference of "
            f"{100 * best.low:+.1f} to {100 * best.high:+.1f} points (95 %); {len(items)} questions about "
            f"{len({item.picture for item in items})} pictures, loss allowed {loss:g}"
        )
        preset = Preset(replace(policy, keep=best.keep), model, note)
        problem = written("--save", save, preset.save)
    if as_json:
        print_json(
            {
                "model": model,
                "loss": loss,
                "questions": len(items),
                "tried": [each.to_dict() for each in found],
                "found": None if best is None else best.to_dict(),
            }
        )
    else:
        _print(found, best, items, loss)
    if problem is not None:
        raise problem
    if best is None:
        raise Failure(
            f"no budget of those tried stays within {loss:g} points: try larger ones, another method, more questions, "
            "or a larger --loss."
        )


def _print(found: list[Tried], best: Tried | None, items: list[Item], loss: float) -> None:
    """A line for each budget, and the verdict."""
    shown = table("budget", "kept", "right", "difference", "95 % interval", f"within {loss:g} points")
    for each in found:
        shown.add_row(
            each.budget,
            f"{each.kept:.1f}",
            f"{100 * each.accuracy:.1f} %",
            f"{100 * each.difference:+.1f}",
            f"{100 * each.low:+.1f} to {100 * each.high:+.1f}",
            "yes" if each.holds else "not shown",
        )
    out, pictures = console(), len({item.picture for item in items})
    out.print(
        f"{100 * found[0].dense:.1f} % right with all tokens, {len(items)} questions about {pictures} pictures",
        style="bold",
    )
    out.print(shown)
    if best is not None:
        out.print(f"smallest budget within {loss:g} points: {best.budget}", style="bold")
