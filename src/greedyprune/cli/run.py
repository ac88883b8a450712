"""`greedyprune run`: one question about one or more images of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli._errors import misuse
from greedyprune.cli._options import Device, Dtype, Longest, method_of
from greedyprune.cli._show import console, print_json, progress, size, table
from greedyprune.registry import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from greedyprune.cli._answer import Answer, Pruning
    from greedyprune.cli._load import Loaded

EXAMPLES = """Examples:

  greedyprune run scene.png --ask "how many circles ?" --keep 16 --compare

  greedyprune run photo.jpg --ask "What is this?" --model ./llava --save kept.png

  greedyprune run a.jpg b.jpg --ask "What differs?" --model ./llava --at layer:2:early --json

  greedyprune run scene.png --ask "how many circles ?" --method '{"type": "greedyprune", "tau": 0.9}'"""
POSITIONS = ("original", "compact")


Pictures = Annotated[list[Path], typer.Argument(help="One or more pictures; all of them go into one prompt.")]
Ask = Annotated[str, typer.Option("--ask", metavar="QUESTION", help="The question about them.")]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="FOLDER_OR_ID", help="A folder or an id of the hub.", show_default="bundled"),
]
Named = Annotated[
    str,
    typer.Option("--method", metavar="NAME|JSON", help="See [bold]greedyprune methods[/bold]; JSON sets its options."),
]
Keep = Annotated[
    str, typer.Option("--keep", metavar="64|25%", help="Visual tokens kept of each image, as a number or a share.")
]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="input|layer:L[:early]",
        help="Where to cut: before layer 0, or after L layers; :early frees the caches of these L too.",
        show_default="the method's own place",
    ),
]
Numbered = Annotated[
    str,
    typer.Option(
        "--positions", metavar="|".join(POSITIONS), help="Kept tokens keep their position ids, or are renumbered."
    ),
]
Compare = Annotated[bool, typer.Option("--compare", help="Answer without pruning too.")]
Save = Annotated[Path | None, typer.Option("--save", metavar="PNG", help="Draw the kept patches into this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


def run(
    image: Pictures,
    ask: Ask,
    model: Model = None,
    method: Named = DEFAULT,
    keep: Keep = "25%",
    at: At = None,
    positions: Numbered = "original",
    compare: Compare = False,
    save: Save = None,
    as_json: Json = False,
    max_new_tokens: Longest = 64,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Ask a question about images, with fewer visual tokens."""
    pruning = _pruning(method, keep, at, positions)
    if not ask.strip():
        raise misuse("--ask is empty: write a question.")
    from greedyprune.cli._load import check_picture_path, load, open_image
    from greedyprune.cli._outputs import written

    images = [open_image(path) for path in image]
    if save is not None:
        check_picture_path(save)
    with progress("loading the model") as say:
        loaded = load(model, device, dtype)
        say("answering")
        answers = _answers(loaded, images, ask, pruning, compare, max_new_tokens)
    problem = written("--save", save, lambda path: _draw(loaded, images, answers[-1], ask, path))
    _print(answers, None if problem else save, as_json, _about(loaded, ask, pruning))
    if problem is not None:
        raise problem


def _pruning(method: str, keep: str, at: str | None, positions: str) -> Pruning:
    """Read the options, before anything slow is loaded."""
    from greedyprune.budget import parse_budget
    from greedyprune.stages import parse_stage

    try:
        budget = parse_budget(keep)
    except ValueError as error:
        raise misuse(f"--keep {error}") from error
    try:
        stage = None if at is None else parse_stage(at)
    except ValueError as error:
        raise misuse(f"--at {error}") from error
    if positions not in POSITIONS:
        raise misuse(f"--positions {positions!r} is unknown: choose one of {', '.join(POSITIONS)}.")
    chosen = method_of(method)
    try:
        chosen.check_stage(stage or chosen.at)
    except ValueError as error:
        raise misuse(f"--at: {error}") from error
    from greedyprune.cli._answer import Pruning

    return Pruning(chosen, budget, stage, "compact" if positions == "compact" else "original")


def _about(loaded: Loaded, ask: str, pruning: Pruning) -> dict[str, Any]:
    """The question, the model and the method, as plain values."""
    from greedyprune.plain import to_plain

    plain = to_plain(pruning.method)
    about = {"model": loaded.name, "question": ask, "method": plain["type"], "plain": plain}
    return {**about, "positions": pruning.positions}


def _answers(
    loaded: Loaded, images: Sequence[Image.Image], ask: str, pruning: Pruning, compare: bool, longest: int
) -> list[Answer]:
    """The dense answer first if it is wanted, the pruned one last."""
    from greedyprune.cli._answer import answer, prompt

    inputs = prompt(loaded, images, ask)
    return [answer(loaded, inputs, how, longest) for how in ([None, pruning] if compare else [pruning])]


def _draw(loaded: Loaded, images: Sequence[Image.Image], pruned: Answer, ask: str, path: Path) -> None:
    """Write the overlay, of several images side by side."""
    from greedyprune.outputs import replacing
    from greedyprune.plots import overlay, seen, side_by_side

    drawn = [
        overlay(image, selection, part=seen(image, loaded.processor))
        for image, selection in zip(images, pruned.selections, strict=True)
    ]
    captions = [f"{selection.k} of {selection.n} tokens" for selection in pruned.selections]
    title = f"{ask}\n{pruned.text}"
    sheet = side_by_side(drawn, captions, width=504, columns=min(len(drawn), 4), title=title)
    with replacing(path) as fresh:
        (drawn[0] if len(drawn) == 1 else sheet).save(fresh)


def _print(answers: list[Answer], saved: Path | None, as_json: bool, about: dict[str, Any]) -> None:
    """Print the answers, with the price of each."""
    pruned = answers[-1]
    if as_json:
        dense = {"dense": answers[0].to_dict()} if len(answers) > 1 else {}
        picture = str(saved) if saved else None
        print_json({**about, "at": pruned.at, **dense, "pruned": pruned.to_dict(), "overlay": picture})
        return
    shown = table("", "answer", "visual tokens", "in sequence", "first token", "KV cache")
    for column in shown.columns[2:]:
        column.justify = "right"
        column.no_wrap = True
    for found in answers:
        shown.add_row(
            "dense" if found.at is None else f"{about['method']} at {found.at}",
            found.text,
            f"{found.kept} of {found.tokens}",
            str(found.sequence),
            f"{found.first_ms:.1f} ms",
            size(found.cache_bytes),
        )
    console().print(shown)
    if saved:
        console().print(f"overlay: {saved}", style="dim")
