"""Stages: the places in a model where visual tokens can leave the sequence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A place where tokens are cut. Use `Input()` or `Layer(l)`."""


@dataclass(frozen=True)
class Input(Stage):
    """Before decoder layer 0: the rows are the projector's output. No layer and no cache sees a dropped token."""

    def __str__(self) -> str:
        return "input"


@dataclass(frozen=True)
class Layer(Stage):
    """Before decoder layer `index` (0-based): `index` layers have run on all tokens, the rest run on the kept ones."""

    index: int
    early: bool = False
    """Cut the caches of earlier layers too, after the prompt: less memory, but later text cannot look back there."""

    def __post_init__(self) -> None:
        if isinstance(self.index, bool) or not isinstance(self.index, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"Layer({self.index!r}): write the number of decoder layers that run before the cut, an int."
            )
        if self.index < 0:
            raise ValueError(f"Layer({self.index}): count layers from the first one, 0 or more.")

    def __str__(self) -> str:
        return f"layer:{self.index}" + (":early" if self.early else "")


def parse_stage(text: str) -> Stage:
    """Read `input`, `layer:2` or `layer:2:early`, the way a command line writes a stage."""
    match text.strip().lower().split(":"):
        case ["input"]:
            return Input()
        case ["layer", index] if index.isdecimal():
            return Layer(int(index))
        case ["layer", index, "early"] if index.isdecimal():
            return Layer(int(index), early=True)
        case _:
            pass
    raise ValueError(f"{text!r} names no stage: write input, or layer:L with the number of layers before the cut.")
