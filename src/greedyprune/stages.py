"""Stages: the places in a model where visual tokens can leave the sequence."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from greedyprune.shown import shown


@dataclass(frozen=True)
class Stage:
    """The place of a cut. Use `Input()` or `Layer(l)`, or for several cuts `Layers(...)` or `Depths(...)`.

    at: Stage = Layer(2)
    """


@dataclass(frozen=True)
class Input(Stage):
    """Cut before decoder layer 0. The rows are the projector's output. No layer and no cache sees a dropped token.

    gp.prune(model, keep=64, at=Input())
    """

    def __str__(self) -> str:
        return "input"


@dataclass(frozen=True)
class Layer(Stage):
    """Cut before decoder layer `index` (0-based): `index` layers run on all tokens, the rest on the kept ones.

        gp.prune(model, keep=64, at=Layer(2))

    Raises TypeError or ValueError if `index` is no int of 0 or more.
    """

    index: int
    early: bool = False
    """True: cut the caches of earlier layers too, after the prompt. This saves memory, but later text cannot attend to
    the dropped tokens in those layers."""

    def __post_init__(self) -> None:
        if isinstance(self.index, bool) or not isinstance(self.index, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"Layer({shown(self.index)}): write the number of decoder layers that run before the cut, an int."
            )
        if self.index < 0:
            raise ValueError(f"Layer({self.index}): count layers from the first one, 0 or more.")

    def __str__(self) -> str:
        return f"layer:{self.index}" + (":early" if self.early else "")


@dataclass(frozen=True)
class Layers(Stage):
    """Several cuts, each before one decoder layer. The method decides the number that stays after each cut.

        gp.prune(model, "pyramiddrop", keep=64, at=Layers((8, 16, 24)))

    Raises ValueError unless the layers are ascending, each 1 or more.
    """

    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", tuple(self.indices))
        given = self.indices
        if not given or any(isinstance(i, bool) or not isinstance(i, int) or i < 1 for i in given):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"Layers({shown(given)}): write decoder layers to cut before, each 1 or more.")
        if any(b <= a for a, b in pairwise(given)):
            raise ValueError(f"Layers({shown(given)}): write the decoder layers in ascending order, each once.")

    def __str__(self) -> str:
        return "layers:" + ",".join(map(str, self.indices))


@dataclass(frozen=True)
class Depths(Stage):
    """Several cuts, at shares of the decoder's depth.

        Depths((1 / 4, 1 / 2, 3 / 4))       # Layers((8, 16, 24)) of 32 layers

    Raises ValueError unless the shares are ascending and between 0 and 1.
    """

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))
        given = self.shares
        for share in given:
            if isinstance(share, bool) or not isinstance(share, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"Depths({shown(given)}): {shown(share)} is no share of the decoder's depth, write a number."
                )
        if not given or any(not 0 < share < 1 for share in given) or any(b <= a for a, b in pairwise(given)):
            raise ValueError(f"Depths({shown(given)}): write ascending shares of the decoder's depth, between 0 and 1.")

    def of(self, depth: int) -> Layers:
        """The same cuts in a decoder of `depth` layers: rounded, at least 1, no layer twice."""
        if depth <= len(self.shares):
            raise ValueError(
                f"{len(self.shares)} cuts do not fit a decoder of {depth} layers: name fewer places in at=."
            )
        places: list[int] = []
        for number, share in enumerate(self.shares):
            lowest, highest = places[-1] + 1 if places else 1, depth - len(self.shares) + number
            places.append(min(max(math.floor(share * depth + 0.5), lowest), highest))
        return Layers(tuple(places))

    def __str__(self) -> str:
        return "depths:" + ",".join(f"{share:.4g}" for share in self.shares)


def parse_stage(text: str) -> Stage:
    """Read `input`, `layer:2`, `layer:2:early`, `layers:8,16,24` or `depths:0.25,0.5`, as a command line writes it."""
    match text.strip().lower().split(":"):
        case ["input"]:
            return Input()
        case ["layer", index] if _is_index(index):
            return Layer(int(index))
        case ["layer", index, "early"] if _is_index(index):
            return Layer(int(index), early=True)
        case ["layers", indices] if all(map(_is_index, indices.split(","))):
            return Layers(tuple(int(index) for index in indices.split(",")))
        case ["depths", shares] if all(re.fullmatch(r"0?\.\d+", share) for share in shares.split(",")):
            return Depths(tuple(float(share) for share in shares.split(",")))
        case _:
            pass
    raise ValueError(
        f"{shown(text)} names no stage: write input, or layer:L with the number of layers before the cut, or for "
        "several cuts layers:8,16,24 or depths:0.25,0.5,0.75."
    )


def _is_index(text: str) -> bool:
    """True for a whole number that may count layers. Python refuses to read one of thousands of digits."""
    return text.isdecimal() and len(text) < 10


def as_stage(at: object) -> Stage:
    """Read a user's stage: the stage itself, or its text, such as "layer:2"."""
    if isinstance(at, Stage):
        return at
    if isinstance(at, str):
        return parse_stage(at)
    number = isinstance(at, int) and not isinstance(at, bool)
    remedy = f"write Layer({at}), or Input()" if number else "write Input(), Layer(2) or the like"
    raise TypeError(f"at={shown(at)} is no stage: {remedy}.")
