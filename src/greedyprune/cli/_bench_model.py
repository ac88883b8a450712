"""What the measurements of a whole model share: their options, the model with its prompts, and the policy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli._errors import Failure, misuse
from greedyprune.cli._options import method_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from greedyprune.policy import Policy

SIZES = {True: "168x168", False: "672x672"}
"""Width and height of the pictures, of a bundled model and of any other. Many models scale them to one size."""

Model = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="A folder or an id of the hub.", show_default="the bundled model"),
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
    typer.Option("--at", metavar="input|layer:L", help="Where to cut.", show_default="the method's own place"),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Prompts that are read at a time.")]
Images = Annotated[int, typer.Option("--images", min=1, help="Images of each prompt.")]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH", help="Size of the pictures in pixels.", show_default="672x672"),
]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Rounds; each runs everything once, in random order.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of torch on the CPU.")]


@dataclass(frozen=True, eq=False)
class Opened:
    """A model and the inputs of a batch of equal prompts."""

    model: Any
    inputs: dict[str, Tensor]
    name: str


def policy_of(method: str, keep: str, at: str | None) -> Policy:
    """The policy that the options name. Raises Failure if they do not fit each other."""
    from greedyprune.budget import parse_budget
    from greedyprune.policy import Policy
    from greedyprune.stages import parse_stage

    try:
        budget = parse_budget(keep)
    except ValueError as error:
        raise misuse(f"--keep {error}") from error
    try:
        stage: Any = None if at is None else parse_stage(at)
    except ValueError as error:
        raise misuse(f"--at {error}") from error
    try:
        policy = Policy(method_of(method), budget, stage)
        policy.check_stages()
    except ValueError as error:
        raise misuse(f"--at: {error}") from error
    return policy


def size_of(text: str | None) -> tuple[int, int] | None:
    """Width and height that --size names."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip().lower())
    if found is None:
        raise misuse(f"--size {text!r}: write width and height in pixels, such as 672x672.")
    from greedyprune.preprocessing.pictures import TooLarge, check_size

    size = int(found[1]), int(found[2])
    try:
        check_size(*size)
    except TooLarge as error:
        raise misuse(f"--size {text!r}: {error}") from error
    return size


def opened(
    name: str | None, device: str, dtype: str | None, batch: int, images: int, size: tuple[int, int] | None
) -> Opened:
    """Load a model and write a batch of equal prompts for it."""
    from greedyprune.cli._load import checked_place, load
    from greedyprune.testbed import FOLDERS
    from greedyprune.verify import open_subject

    check_kind(device)
    loaded = load(name, device, dtype)
    place = str(FOLDERS["llava"]) if name is None else checked_place(name)
    try:
        subject = open_subject(loaded.model, place, (size or size_of(SIZES[loaded.bundled]) or (0, 0),))
        inputs = subject.prompt((tuple(range(images)),) * batch)
    except ValueError as error:
        raise Failure(f"{loaded.name!r} cannot be measured: {error}") from error
    return Opened(loaded.model, inputs, loaded.name)


def check_kind(device: str) -> None:
    """Raise Failure for a device whose time is not measured here."""
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise misuse(f"--device {device!r}: time is measured on cpu and cuda.")


def measured(work: Callable[[], Any]) -> Any:
    """Run a measurement. What cannot be measured is a Failure."""
    try:
        return work()
    except (ValueError, TypeError, NotImplementedError) as error:
        raise Failure(str(error)) from error
