"""`greedyprune verify`: proofs on a user's own checkpoint that pruning changes nothing but what it drops."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli._errors import Failure, misuse, note
from greedyprune.cli._options import Device
from greedyprune.cli._show import console, print_json, progress, table, tick

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from greedyprune.stages import Stage
    from greedyprune.verify import Subject, Verdict

EXAMPLES = """Examples:

  greedyprune verify ./my-llava

  greedyprune verify ./my-qwen --at layer:14 --attention both --images 336x336,448x224

  greedyprune verify llava --json"""

ATTENTION = ("sdpa", "eager")
DTYPES = ("float32", "bfloat16", "float16")

Folder = Annotated[
    str,
    typer.Argument(metavar="MODEL_FOLDER", help="A folder that save_pretrained wrote; llava and qwen are bundled."),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="STAGE",
        help="Prove this stage too: input, layer:2 or layer:2:early; may be repeated.",
        show_default="input, layer:1 and layer:2",
    ),
]
Attentions = Annotated[
    str, typer.Option("--attention", metavar="sdpa|eager|both", help="Attention implementation of the pruned model.")
]
Images = Annotated[
    str,
    typer.Option(
        "--images",
        metavar="N|WxH,WxH...",
        help="Number of images in the prompt with several, or their sizes in pixels.",
    ),
]
Steps = Annotated[int, typer.Option("--steps", min=2, help="Tokens that every run generates.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Number = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="float32, bfloat16 or float16; in 16 bits, errors are compared with the plain model's own rounding.",
    ),
]


def verify(
    folder: Folder,
    at: At = None,
    attention: Attentions = "sdpa",
    images: Images = "2",
    steps: Steps = 8,
    dtype: Number = "float32",
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Prove on your own checkpoint that pruning changes nothing but what it drops.

    Eight properties are held at every stage. The exit status is 0 if every property that applies is proven: 1 if one
    fails or could not be told.
    """
    places, sizes = _stages(at or []), _sizes(images)
    if attention not in (*ATTENTION, "both"):
        raise misuse(f"--attention {attention!r} is unknown: choose one of {', '.join(ATTENTION)} or both.")
    if dtype not in DTYPES:
        raise misuse(f"--dtype {dtype!r} is unknown: choose one of {', '.join(DTYPES)}.")
    chosen = ATTENTION if attention == "both" else (attention,)
    with progress("loading the model") as say:
        subject = _subject(folder, device, dtype, sizes)
        verdicts = _prove(folder, subject, places, chosen, steps, len(sizes) or int(images), say)
    if as_json:
        print_json({**_about(folder, subject, dtype, steps, sizes), **_summary(verdicts)})
    else:
        _print(subject, verdicts)
    _raise(verdicts)


def _stages(texts: list[str]) -> list[Stage]:
    """The stages that --at names."""
    from greedyprune.stages import Depths, Layers, parse_stage

    try:
        places = [parse_stage(text) for text in texts]
    except ValueError as error:
        raise misuse(f"--at {error}") from error
    for place in places:
        if isinstance(place, (Layers, Depths)):
            raise misuse(f"--at {place} is several cuts, which are not proven here: name each as a layer:L of its own.")
    return places


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Sizes of pictures as (width, height); empty if the text is a number of pictures."""
    word = text.strip().lower()
    if word.isdecimal() and int(word) >= 2:
        return ()
    found = [re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size.strip()) for size in word.split(",")]
    if len(found) < 2 or not all(found):
        raise misuse(f"--images {text!r}: write a number from 2 up, or two sizes or more such as 336x336,448x224.")
    sizes = tuple((int(match[1]), int(match[2])) for match in found if match)
    from greedyprune.preprocessing.pictures import TooLarge, check_size

    for width, height in sizes:
        try:
            check_size(width, height)
        except TooLarge as error:
            raise misuse(f"--images {text!r}: {error}") from error
    return sizes


def _subject(folder: str, device: str, dtype: str, sizes: tuple[tuple[int, int], ...]) -> Subject:
    """The checkpoint, and prompts for it."""
    from greedyprune.cli._load import _check_family, _first_line, check_device, quieten
    from greedyprune.verify import open_subject

    where = _place(folder)
    quieten()
    check_device(device)
    _check_family(where, folder)
    from transformers import AutoModelForImageTextToText

    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            where, dtype=dtype, local_files_only=True, output_loading_info=True
        )
        model, lacking = loaded[0].to(device).eval(), sorted(loaded[1].get("missing_keys") or ())
    except Exception as error:  # whatever a broken checkpoint makes the libraries below raise
        raise Failure(f"cannot load the model {folder!r}: {_first_line(error)}") from error
    if lacking:
        note(f"warning: {len(lacking)} weights are missing and were drawn at random, such as {lacking[0]}.")
    try:
        return open_subject(model, where, sizes)
    except (ValueError, NotImplementedError) as error:
        raise Failure(f"{folder!r} cannot be proven: {error}") from error


def _place(folder: str) -> str:
    """The checkpoint's folder."""
    from greedyprune import testbed

    path = Path(folder).expanduser()
    if not path.exists() and folder in testbed.FOLDERS:
        return str(testbed.FOLDERS[folder])
    if not path.exists():
        raise Failure(f"{folder!r}: there is no such folder.")
    if not path.is_dir():
        raise Failure(f"{folder!r} is a file: give the folder that save_pretrained wrote.")
    if not (path / "config.json").is_file():
        raise Failure(f"{folder!r} is no checkpoint: the folder holds no config.json.")
    return os.fspath(path)


def _prove(
    folder: str, subject: Subject, places: list[Stage], attentions: tuple[str, ...], steps: int, images: int, say: Any
) -> list[Verdict]:
    """Every verdict."""
    from greedyprune.verify import Unready, prove, stages_of

    try:
        stages = stages_of(subject.model, places)
    except (ValueError, NotImplementedError) as error:
        raise Failure(f"--at {error}" if places else str(error)) from error
    verdicts: list[Verdict] = []
    try:
        for verdict in prove(subject, stages, attentions, steps=steps, images=images):
            verdicts.append(verdict)
            say(f"{len(verdicts)} verdicts, the last: {verdict.name} at {verdict.at}")
    except Unready as error:
        raise Failure(f"{folder!r} cannot be proven: {error}") from error
    return verdicts


def _about(folder: str, subject: Subject, dtype: str, steps: int, sizes: Any) -> dict[str, Any]:
    """The model and the settings, as plain values."""
    kind = subject.model.config.model_type
    given = [f"{width}x{height}" for width, height in sizes]
    return {"model": folder, "family": kind, "prompts": subject.source, "dtype": dtype, "steps": steps, "sizes": given}


def _summary(verdicts: list[Verdict]) -> dict[str, Any]:
    """The verdicts as plain values, and how many there are of each outcome; `of` counts the properties that apply."""
    found = Counter(verdict.outcome for verdict in verdicts)
    counts = {"proven": found["passed"], "of": len(verdicts) - found["does not apply"], "failed": found["failed"]}
    rest = {"untold": found["not told"], "does_not_apply": found["does not apply"]}
    return {**counts, **rest, "verdicts": [verdict.to_dict() for verdict in verdicts]}


def _print(subject: Subject, verdicts: list[Verdict]) -> None:
    """A row per property, a column per stage."""
    out, found = console(), _summary(verdicts)
    out.print(f"{subject.model.config.model_type}, prompts by {subject.source}", style="dim")
    out.print(*_tables(verdicts))
    for verdict in verdicts:
        if verdict.detail:
            out.print(str(verdict))
    out.print("Numbers: the largest error found, between logits or in tokens.", style="dim")
    told = {"failed": "failed", "untold": "could not be told", "does_not_apply": "not applicable"}
    rest = ", ".join(f"{found[name]} {words}" for name, words in told.items() if found[name])
    out.print(f"proven: {found['proven']} of {found['of']}{f' ({rest})' if rest else ''}")


def _tables(verdicts: list[Verdict]) -> list[Table]:
    """One table for each kind of attention."""
    kinds = list(dict.fromkeys(verdict.attention for verdict in verdicts))
    shown: list[Table] = []
    for kind in kinds:
        mine = [verdict for verdict in verdicts if verdict.attention == kind]
        places = list(dict.fromkeys(verdict.at for verdict in mine))
        shown.append(table(f"property, {kind}" if len(kinds) > 1 else "property", *places))
        by_place = {(verdict.name, verdict.at): verdict for verdict in mine}
        for name in dict.fromkeys(verdict.name for verdict in mine):
            shown[-1].add_row(name, *(_cell(by_place[name, place]) for place in places))
    return shown


def _cell(verdict: Verdict) -> Text:
    from rich.text import Text

    if verdict.passed is None:
        return Text("?", "red") if verdict.applies else Text("-", "dim")
    error = "0" if verdict.error == 0 else f"{verdict.error:.1e}"
    return tick(verdict.passed) + Text(f" {error}")


def _raise(verdicts: list[Verdict]) -> None:
    """Raise Failure if a property fails or could not be told, or if no property applies."""
    applying = [verdict for verdict in verdicts if verdict.applies]
    told = {False: "failures", None: "could not be told"}
    wrong: list[str] = []
    for passed, word in told.items():
        some = [f"{v.name} ({v.at}, {v.attention})" for v in applying if v.passed is passed]
        verb = "are " if passed is False else ""
        wrong += [f"{len(some)} of {len(applying)} verdicts {verb}{word}: {'; '.join(some)}"] if some else []
    if wrong:
        raise Failure(". ".join(wrong) + ".")
    if not applying:
        raise Failure("nothing was proven: no property applies.")
