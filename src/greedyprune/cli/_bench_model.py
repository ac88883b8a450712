"""What the measurements of a whole model share: where it runs, and the model with its prompts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greedyprune.cli._errors import Failure, misuse, note
from greedyprune.cli._show import size as in_words

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

USUAL, BUNDLED = (672, 672), (168, 168)
"""Width and height of the pictures, for any model and for a bundled one. Many models scale them to one size."""
TEXT = 64
"""Tokens of text and markers in a prompt, at most; for counting memory."""


@dataclass(frozen=True)
class Setting:
    """Where a model runs, and what it reads."""

    device: str
    dtype: str | None
    batch: int
    images: int
    size: tuple[int, int] | None

    @classmethod
    def of(cls, device: str, dtype: str | None, batch: int, images: int, size: str | None) -> Setting:
        """Read the options. Raises Failure for a device that is not there, or whose time is not measured."""
        from greedyprune.cli._load import check_device

        check_device(device)
        if device.partition(":")[0] not in ("cpu", "cuda"):
            raise misuse(f"--device {device!r}: time is measured on cpu and cuda.")
        return cls(device, dtype, batch, images, size_of(size))

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The prompts, each as the numbers of its pictures. They are equal, so that nothing is padded."""
        return (tuple(range(self.images)),) * self.batch

    @property
    def kind(self) -> torch.dtype:
        """The type of random weights. Raises Failure for one that is no type."""
        import torch

        usual = "float32" if self.device.startswith("cpu") else "bfloat16"
        kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if (self.dtype or usual) not in kinds:
            raise misuse(f"--dtype {self.dtype!r} is no type of random weights: choose one of {', '.join(kinds)}.")
        return kinds[self.dtype or usual]


@dataclass(frozen=True, eq=False)
class Opened:
    """A model and the inputs of a batch of equal prompts."""

    model: Any
    inputs: dict[str, Tensor]
    name: str


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


def found(model: str | None, config: str | None, layers: int | None, setting: Setting) -> Opened:
    """The model that the options name, loaded or built, and its prompts."""
    return opened(model, setting) if config is None else built(config, layers, setting)


def opened(name: str | None, setting: Setting) -> Opened:
    """Load a model and write a batch of equal prompts for it."""
    from greedyprune.cli._load import checked_place, load
    from greedyprune.testbed import FOLDERS
    from greedyprune.verify import open_subject

    loaded = load(name, setting.device, setting.dtype)
    place = str(FOLDERS["llava"]) if name is None else checked_place(name)
    size = setting.size or (BUNDLED if loaded.bundled else USUAL)
    try:
        inputs = open_subject(loaded.model, place, (size,)).prompt(setting.rows)
    except ValueError as error:
        raise Failure(f"{loaded.name!r} cannot be measured: {error}") from error
    return Opened(loaded.model, inputs, loaded.name)


def built(name: str, layers: int | None, setting: Setting) -> Opened:
    """A model of a known shape with random weights. Its memory is said, or refused, before anything is allocated."""
    import torch

    from greedyprune.bench.shapes import build, config_of
    from greedyprune.verify.raw import from_config

    need = needed(name, layers, setting)
    if need.problem is not None:
        raise need.problem
    note(f"{need.text}.")
    model = build(measured(lambda: config_of(name, layers)), torch.device(setting.device), setting.kind)
    subject = from_config(model, (setting.size or USUAL,), tried=False)
    return Opened(model, subject.prompt(setting.rows), name)


@dataclass(frozen=True)
class Need:
    """The memory that a shape needs, in words, and the reason why it does not fit."""

    text: str
    problem: Failure | None


def needed(name: str, layers: int | None, setting: Setting) -> Need:
    """Count the memory of a shape. Nothing is allocated."""
    import torch

    from greedyprune.bench.shapes import SHAPES, config_of, free_memory, memory_of

    config = measured(lambda: config_of(name, layers))
    tokens = setting.batch * (setting.images * SHAPES[name].tokens + TEXT)
    need, free = memory_of(config, setting.kind, tokens), free_memory(torch.device(setting.device))
    text = (
        f"{name} with {config.get_text_config().num_hidden_layers} decoder layers needs about {in_words(need.total)} "
        f"in {str(setting.kind).removeprefix('torch.')}, {in_words(need.weights)} of it for weights"
    )
    if free is None or need.total <= free:
        return Need(text, None)
    rest = "lower --layers, or let --predict add them up"
    return Need(text, Failure(f"--config {text}, and {setting.device} has {in_words(free)} free: {rest}."))


def measured(work: Callable[[], Any]) -> Any:
    """Run a measurement. What cannot be measured is a Failure."""
    try:
        return work()
    except (ValueError, TypeError, NotImplementedError) as error:
        raise Failure(str(error)) from error
