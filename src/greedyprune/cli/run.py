"""`greedyprune run`: one question about images of the user's own. The answer is printed first, then what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli._drawn import draw
from greedyprune.cli._errors import Failure, misuse, note
from greedyprune.cli._options import (
    BUDGETS,
    STAGES,
    USUAL_KEEP,
    Device,
    Dtype,
    Longest,
    PresetFile,
    cut_of,
    preset_of,
)
from greedyprune.cli._outputs import make_folder, written
from greedyprune.cli._prompts import prompts, question
from greedyprune.cli._show import console, flops, print_json, progress, size, table
from greedyprune.registry import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from greedyprune.cli._answer import Answer, Pruning
    from greedyprune.cli._load import Loaded
    from greedyprune.preprocessing.clips import Clip
    from greedyprune.preset import Preset

EXAMPLES = """Examples:

  greedyprune run scene.png --ask "how many circles ?" --keep 16 --compare

  greedyprune run photo.jpg --ask "What is this?" --model ./llava --save kept.png

  greedyprune run my-photos --prompt-file question.txt --model ./llava --save kept

  greedyprune run a.jpg b.jpg --ask "What differs?" --model ./llava --at layer:2:early --json

  greedyprune run scene.png --ask "how many circles ?" --method '{"type": "greedyprune", "tau": 0.9}'"""
BUNDLED = (
    "The bundled model knows generated scenes alone, flat coloured shapes on one ground: --model FOLDER_OR_ID asks one "
    "that knows photos."
)
POSITIONS = ("original", "compact")


Pictures = Annotated[
    list[Path],
    typer.Argument(help="Pictures and clips, which go into one prompt, or folders, whose files get one each."),
]
Ask = Annotated[str | None, typer.Option("--ask", metavar="QUESTION", help="The question about them.")]
PromptFile = Annotated[
    Path | None,
    typer.Option("--prompt-file", metavar="TXT", help="A file that holds the question; - is standard input."),
]
Together = Annotated[bool, typer.Option("--together", help="Put the pictures of folders into one prompt, too.")]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="FOLDER_OR_ID", help="A folder or an id of the hub.", show_default="bundled"),
]
Named = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME|JSON",
        help="See [bold]greedyprune methods[/bold]; JSON sets its options.",
        show_default=DEFAULT,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="BUDGET",
        help=f"{BUDGETS}, or less at each cut, 'layer:2 50%, layer:4 25%'.",
        show_default=USUAL_KEEP,
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="STAGE",
        help=f"Where to cut: {STAGES}.",
        show_default="the method's own place",
    ),
]
Numbered = Annotated[
    str | None,
    typer.Option(
        "--positions",
        metavar="|".join(POSITIONS),
        help="Kept tokens keep their position ids, or are renumbered.",
        show_default=POSITIONS[0],
    ),
]
Compare = Annotated[bool, typer.Option("--compare", help="Answer without pruning too.")]
Save = Annotated[
    Path | None,
    typer.Option("--save", metavar="PNG", help="Draw the kept patches into this file, or folder."),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature", min=0.01, help="Draw the answer at random, at this temperature.", show_default="no draws"
    ),
]
TopP = Annotated[float, typer.Option("--top-p", min=0.01, max=1, help="Draw from the likeliest of this share.")]
TopK = Annotated[int, typer.Option("--top-k", min=0, help="Draw from so many of the likeliest; 0 is all.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")]
Size = Annotated[int, typer.Option("--size", min=32, max=8192, help="Longest side of a drawn picture in pixels.")]
Frames = Annotated[int, typer.Option("--frames", min=1, max=512, help="Evenly spaced frames that are read of a clip.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


@dataclass(frozen=True, eq=False)
class Asked:
    """A prompt and its answers."""

    paths: list[Path]
    answers: list[Answer]
    """The dense one first if it is wanted, the pruned one last."""
    saved: Path | None
    """The picture of what was kept."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        pruned = self.answers[-1]
        dense = {"dense": self.answers[0].to_dict()} if len(self.answers) > 1 else {}
        images, picture = [str(path) for path in self.paths], str(self.saved) if self.saved else None
        return {"images": images, "at": pruned.at, **dense, "pruned": pruned.to_dict(), "overlay": picture}


def run(
    image: Pictures,
    ask: Ask = None,
    prompt_file: PromptFile = None,
    together: Together = False,
    frames: Frames = 8,
    model: Model = None,
    method: Named = None,
    keep: Keep = None,
    at: At = None,
    positions: Numbered = None,
    preset: PresetFile = None,
    compare: Compare = False,
    save: Save = None,
    size: Size = 504,
    as_json: Json = False,
    max_new_tokens: Longest = 64,
    temperature: Temperature = None,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Ask a question about images or clips, with fewer visual tokens."""
    base = preset_of(preset)
    pruning = _pruning(method, keep, at, positions, base)
    model = base.model if model is None and base is not None else model
    asked = question(ask, prompt_file)
    said = _said(max_new_tokens, temperature, top_p, top_k, seed)
    from greedyprune.cli._load import check_picture_path, load

    groups = prompts(image, together)
    several = not together and any(path.is_dir() for path in image)
    if save is not None:
        (partial(make_folder, "--save") if several else check_picture_path)(save)
    opened = None if several else _opened(groups[0], model, frames)
    with progress("loading the model"):
        loaded = load(model, device, dtype)
    about = _about(loaded, asked, pruning)
    done: list[Asked] = []
    failed: list[Failure] = []
    for number, paths in enumerate(groups, start=1):
        try:
            with progress(f"answering {number} of {len(groups)}" if several else "answering"):
                images = opened or _opened(paths, model, frames)
                answers = _answers(loaded, images, asked, pruning, compare, said)
        except Failure as error:
            if not several:
                raise
            note(f"warning: {error}")
            failed.append(error)
            continue
        if answers[-1].tokens and not answers[-1].kept:
            note("warning: no visual token stays, so the model answers without having seen the picture.")
        if not as_json:
            _print_answers(answers, about["method"], paths if several else [])
        place = save / f"{number:03d}-{paths[0].stem}.png" if save and several else save
        problem = written("--save", place, partial(draw, loaded, images, answers[-1], asked, size))
        failed += [problem] if problem else []
        done.append(Asked(paths, answers, None if problem else place))
    if as_json:
        found = [each.to_dict() for each in done]
        print_json({**about, "prompts": found} if several else {**about, **found[0]})
    elif done:
        _print_numbers(done, about["method"])
        if loaded.bundled:
            console().print(BUNDLED, style="dim", soft_wrap=True)
    if failed:
        raise failed[0] if not several else Failure(f"{len(failed)} of {len(groups)} prompts failed: {failed[0]}")


def _opened(paths: Sequence[Path], model: str | None, frames: int) -> list[Image.Image | Clip]:
    """The pictures and clips of one prompt."""
    from greedyprune.cli._load import check_reads_videos, is_clip, open_clip, open_image

    for path in paths:
        if is_clip(path):
            check_reads_videos(model, path)
    return [open_clip(path, frames) if is_clip(path) else open_image(path) for path in paths]


def _pruning(
    method: str | None, keep: str | None, at: str | None, positions: str | None, preset: Preset | None
) -> Pruning:
    """Read the options, before anything slow is loaded."""
    from greedyprune.naming import parse_keep

    chosen, budget, stage = cut_of(method, keep, at, parse_keep, preset)
    positions = positions or (POSITIONS[0] if preset is None else preset.policy.positions)
    if positions not in POSITIONS:
        raise misuse(f"--positions {positions!r} is unknown: choose one of {', '.join(POSITIONS)}.")
    from greedyprune.cli._answer import Pruning

    restore = "none" if preset is None else preset.policy.restore
    return Pruning(chosen, budget, stage, "compact" if positions == "compact" else "original", restore)


def _said(longest: int, temperature: float | None, top_p: float, top_k: int, seed: int) -> tuple[Any, ...]:
    """How answers are generated, as the last arguments of `answer`."""
    from greedyprune.cli._answer import Sampling

    if temperature is None:
        if (top_p, top_k, seed) != (1.0, 0, 0):
            raise misuse("--top-p, --top-k and --seed are about draws: write --temperature, such as 0.7, too.")
        return (longest,)
    return longest, Sampling(temperature, top_p, top_k, seed)


def _about(loaded: Loaded, ask: str, pruning: Pruning) -> dict[str, Any]:
    """The question, the model and the method, as plain values."""
    from greedyprune.plain import to_plain

    plain = to_plain(pruning.method)
    about = {"model": loaded.name, "question": ask, "method": plain["type"], "plain": plain}
    return {**about, "positions": pruning.positions}


def _answers(
    loaded: Loaded,
    images: Sequence[Image.Image | Clip],
    ask: str,
    pruning: Pruning,
    compare: bool,
    said: tuple[Any, ...],
) -> list[Answer]:
    """The dense answer first if it is wanted, the pruned one last."""
    from greedyprune.cli._answer import answer, prompt

    inputs = prompt(loaded, images, ask)
    return [answer(loaded, inputs, how, *said) for how in ([None, pruning] if compare else [pruning])]


def _label(found: Answer, method: str) -> str:
    return "dense" if found.at is None else f"{method} at {found.at}"


def _print_answers(answers: list[Answer], method: str, paths: Sequence[Path]) -> None:
    """Print what the model says, as plain text. Several answers and several prompts have a label each."""
    for found in answers:
        labels = [*(str(path) for path in paths), *([_label(found, method)] if len(answers) > 1 else [])]
        console().print(f"{', '.join(labels)}: {found.text}" if labels else found.text, soft_wrap=True)


def _print_numbers(done: list[Asked], method: str) -> None:
    """Print what the answers cost, a column for each: the mean if there are several prompts."""
    columns: list[list[str]] = [["visual tokens", "in sequence", "prompt FLOPs", "KV cache", "first token"]]
    shown = table("" if len(done) == 1 else f"mean of {len(done)} prompts")
    for found in zip(*(each.answers for each in done), strict=True):
        shown.add_column(_label(found[0], method), justify="right", overflow="fold")
        tokens = f"{_mean(found, 'kept')} of {_mean(found, 'tokens')}"
        first = f"{mean(one.first_ms for one in found):.1f} ms"
        held = size(mean(one.cache_bytes for one in found))
        columns.append([tokens, _mean(found, "sequence"), flops(mean(one.flops for one in found)), held, first])
    for row in zip(*columns, strict=True):
        shown.add_row(*row)
    console().print(shown)
    for each in done:
        if each.saved:
            console().print(f"overlay: {each.saved}", style="dim", soft_wrap=True)


def _mean(found: Sequence[Answer], name: str) -> str:
    """The mean of a number of tokens, with one digit behind the point unless it is whole."""
    return f"{mean(getattr(one, name) for one in found):.1f}".removesuffix(".0")
