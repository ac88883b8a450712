"""Options that several commands share, and how `--method`, presets and files of text are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from greedyprune.cli._errors import misuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from greedyprune.method import Method
    from greedyprune.preset import Preset
    from greedyprune.stages import Stage

Value = TypeVar("Value")
BUDGETS = (
    "64 (visual tokens of each image), 25% or 1/4 (a share), '64 per layer' (the average), 8/frame (of a clip), "
    "total:512 (what a prompt's images share)"
)
STAGES = (
    "input (before layer 0), layer:2 (after 2 layers), layer:2:early (and out of their caches), or several cuts: "
    "layers:2,4 or depths:0.25,0.5"
)
"""The texts of budgets and of stages, which every command takes."""
USUAL_KEEP = "25%"
"""The budget if neither the user nor a preset names one."""

Longest = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps ...")]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="auto, float32, bfloat16 or float16.", show_default="float32 on cpu, else the checkpoint's"
    ),
]

Suite = Annotated[str, typer.Option("--suite", metavar="testbed|digits", help="Questions that ship with the library.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR|JSON",
        help="Your own: a folder with images and a .jsonl file of questions, or the file of a public set.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME|DIR|ID", help="llava, qwen, a folder or an id; may be given several times."),
]
Split = Annotated[str, typer.Option("--split", metavar="dev|test", help="Choose on dev, publish test.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the questions.")]
PresetFile = Annotated[
    Path | None,
    typer.Option(
        "--preset",
        metavar="JSON",
        help="A file with method, budget, place and model, as tune writes it. What you write beside it counts.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the rows as one JSON document instead.")]
Questions = Annotated[int, typer.Option("--questions", min=1, help="Questions of each task.")]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Questions in one batch.")]


def unless_given(ctx: typer.Context, name: str, value: Value, other: Value) -> Value:
    """The value of an option if the user wrote it, else the other one, which --quick sets."""
    return value if wrote(ctx, name) else other


def wrote(ctx: typer.Context, name: str) -> bool:
    """True if the user wrote this option."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def text_in(option: str, path: Path) -> str:
    """The text of a file that an option names. Raises Failure if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise misuse(f"{option} {str(path)!r} cannot be read: {reason}.") from error


def method_of(text: str, option: str = "--method") -> Method:
    """A method by its name, or as the JSON that `greedyprune methods --json` shows, with the options to be changed."""
    from greedyprune.method import Method
    from greedyprune.naming import as_method
    from greedyprune.plain import from_plain

    plain: Any = text.strip()
    try:
        if plain.startswith("{"):
            plain = json.loads(plain)
            if "type" not in plain:
                raise ValueError('the JSON has no "type", the name of a method: {"type": "greedyprune", "tau": 0.9}.')
            found = from_plain(plain)
            if not isinstance(found, Method):
                raise ValueError(f"{plain['type']!r} is no method: see greedyprune methods.")
            plain = found
        return as_method(plain)
    except json.JSONDecodeError as error:
        raise misuse(f"{option} is no JSON: {error.msg} at character {error.pos + 1}.") from error
    except (ValueError, TypeError) as error:
        raise misuse(f"{option}: {error}") from error


def preset_of(path: Path | None) -> Preset | None:
    """The preset in this file, if one is named. Raises Failure if there is none in it."""
    from greedyprune.preset import load_preset

    try:
        return None if path is None else load_preset(path)
    except ValueError as error:
        raise misuse(f"--preset: {error}") from error


def cut_of(
    method: str | None, keep: str | None, at: str | None, read: Callable[[str], Value], preset: Preset | None = None
) -> tuple[Method, Value, Stage | None]:
    """What --method, --keep and --at name. `read` reads the budget. Raises Failure if they do not fit each other.

    The preset gives what is None; but a method that is written brings its own place.
    """
    from greedyprune.budget import PerLayer
    from greedyprune.registry import DEFAULT
    from greedyprune.stages import parse_stage

    base = None if preset is None else preset.policy
    try:
        budget: Any = base.keep if keep is None and base is not None else read(USUAL_KEEP if keep is None else keep)
    except (ValueError, TypeError) as error:
        raise misuse(f"--keep {error}") from error
    try:
        stage = None if at is None else parse_stage(at)
    except ValueError as error:
        raise misuse(f"--at {error}") from error
    if base is not None and method is None:
        named = isinstance(budget, PerLayer)  # such a budget says itself where to cut
        stage = base.at if at is None and not named else stage
        chosen = base.method
    else:
        chosen = method_of(DEFAULT if method is None else method)
    try:
        chosen.check_stage(stage or chosen.at)
    except ValueError as error:
        raise misuse(f"--at: {error}") from error
    return chosen, budget, stage
