"""The options of measurements, declared once: those of all, and those of a whole model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from greedyprune.cli import _bench_model as models
from greedyprune.cli._bench_rows import check, saved
from greedyprune.cli._errors import misuse
from greedyprune.cli._options import BUDGETS, STAGES, USUAL_KEEP, Device, Dtype, PresetFile, cut_of, preset_of
from greedyprune.cli._show import print_json, progress
from greedyprune.registry import DEFAULT

if TYPE_CHECKING:
    from greedyprune.policy import Policy

Keep = Annotated[str | None, typer.Option("--keep", metavar="BUDGET", help=f"{BUDGETS}.", show_default=USUAL_KEEP)]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Rounds; each runs everything once, in random order.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of torch on the CPU.")]
Save = Annotated[Path | None, typer.Option("--save", metavar="CSV", help="Write the rows to this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


@dataclass(frozen=True)
class Asked:
    """The values of the shared options: the model, the policy without its budget, the prompts, and how to measure."""

    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A folder or an id of the hub.", show_default="the bundled model"),
    ] = None
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="NAME", help="Random weights in a known shape, such as qwen2.5-vl-7b."),
    ] = None
    layers: Annotated[
        int | None, typer.Option("--layers", min=1, help="Decoder layers of --config.", show_default="all of them")
    ] = None
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME|JSON",
            help="See [bold]greedyprune methods[/bold]; JSON sets its options.",
            show_default=DEFAULT,
        ),
    ] = None
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="STAGE", help=f"Where to cut: {STAGES}.", show_default="the method's own place"),
    ] = None
    preset: PresetFile = None
    batch: Annotated[int, typer.Option("--batch", min=1, help="Prompts that are read at a time.")] = 1
    images: Annotated[int, typer.Option("--images", min=1, help="Images of each prompt.")] = 1
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="Size of the pictures in pixels.", show_default="672x672"),
    ] = None
    rounds: Rounds = 20
    threads: Threads = 1
    device: Device = "cpu"
    dtype: Dtype = None
    save: Annotated[Path | None, typer.Option("--save", metavar="CSV", help="Write what is measured to this file.")] = (
        None
    )
    as_json: Json = False

    def check(self) -> None:
        """Raise Failure for options that do not fit each other, before anything slow is loaded."""
        if self.config is not None and self.model is not None:
            raise misuse(f"MODEL {self.model!r} and --config {self.config!r} name two models: give one.")
        if self.layers is not None and self.config is None:
            raise misuse("--layers cuts the depth of --config: name one.")

    @property
    def setting(self) -> models.Setting:
        """Where the model runs, and what it reads. Raises Failure for a device that is not there."""
        return models.Setting.of(self.device, self.dtype, self.batch, self.images, self.size)

    def with_model(self) -> Asked:
        """The same, with the preset's model if the options name none. Raises Failure for a file that is no preset."""
        base = preset_of(self.preset)
        if base is None or self.model is not None or self.config is not None:
            return self
        return replace(self, model=base.model)

    def policy(self, keep: str | None) -> Policy:
        """The policy with this budget. Raises Failure if method, budget and place do not fit each other."""
        from greedyprune.naming import parse_keep
        from greedyprune.policy import Policy

        base = preset_of(self.preset)
        chosen, budget, stage = cut_of(self.method, keep, self.at, parse_keep, base)
        try:
            positions = "original" if base is None else base.policy.positions
            restore = "none" if base is None else base.policy.restore
            policy = Policy(chosen, budget, stage, positions, restore)  # pyright: ignore[reportArgumentType]
            policy.check_stages()
        except ValueError as error:
            raise misuse(f"--at: {error}") from error
        return policy

    def found(self) -> models.Opened:
        """The model that the options name, loaded or built, and its prompts."""
        return models.found(self.model, self.config, self.layers, self.setting)


def measure_once(asked: Asked, measure: Callable[[models.Opened], Any], show: Callable[[Any], None]) -> None:
    """Load the model, measure one row, and write and print it. `show` prints it for people."""
    check(asked.save)
    from greedyprune.bench.clock import threads_set

    with progress("loading the model") as say, threads_set(asked.threads):
        found = asked.found()
        say("measuring")
        row = models.measured(lambda: measure(found))
    with saved(asked.save, [row.to_dict()]):
        if asked.as_json:
            print_json(row.to_dict())
        else:
            show(row)


def of_a_model(*, without: tuple[str, ...] = (), **usual: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command that takes the options of `Asked`, and its own in front of them.

    `without`: the options that it does not have. `usual`: other defaults.

        @of_a_model(rounds=5)
        def whole_answers(asked: Asked, max_new_tokens: Longest = 32) -> None: ...

    The command gets the shared options as one `Asked`. typer sees all of them in its signature.
    """
    hints = get_type_hints(Asked, include_extras=True)
    shared = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=usual.get(each.name, each.default),
            annotation=hints[each.name],
        )
        for each in fields(Asked)
        if each.name not in without
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        front = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]

        @functools.wraps(command)
        def made(**given: Any) -> None:
            asked = Asked(**{each.name: given.pop(each.name) for each in shared})
            asked.check()
            asked = asked.with_model()
            command(asked, **given)

        made.__signature__ = inspect.Signature([*front, *shared])  # pyright: ignore[reportAttributeAccessIssue]
        made.__annotations__ = {each.name: each.annotation for each in (*front, *shared)}
        return made

    return decorate
