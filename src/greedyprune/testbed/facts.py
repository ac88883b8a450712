"""Facts of a scene that questions use: its shapes by colour and kind, and which of them are unambiguous."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from greedyprune.testbed.layout import SHAPES, Object

K = TypeVar("K")
Pair = tuple[str, str]  # a colour and a shape


@dataclass(frozen=True)
class Facts:
    """The objects of a scene, and its size in pixels."""

    objects: tuple[Object, ...]
    size: tuple[int, int]

    @cached_property
    def shapes(self) -> list[Object]:
        return [thing for thing in self.objects if thing.kind in SHAPES]

    @cached_property
    def tiles(self) -> list[Object]:
        return [thing for thing in self.objects if thing.kind == "tile"]

    @cached_property
    def signs(self) -> list[Object]:
        return [thing for thing in self.objects if thing.kind == "sign"]

    @cached_property
    def pairs(self) -> dict[Pair, list[Object]]:
        return _grouped(self.shapes, lambda thing: (thing.colour, thing.kind))

    @cached_property
    def by_colour(self) -> dict[str, list[Object]]:
        return _grouped(self.shapes, lambda thing: thing.colour)

    @cached_property
    def by_shape(self) -> dict[str, list[Object]]:
        return _grouped(self.shapes, lambda thing: thing.kind)

    @cached_property
    def unique(self) -> list[Object]:
        """Shapes that colour and kind name without doubt."""
        return [found[0] for pair, found in self.pairs.items() if len(found) == 1 and not self.tile_like(*pair)]

    def tile_like(self, colour: str | None = None, shape: str | None = None) -> bool:
        """True if a tile of this scene could pass for such a shape. None means any colour, or any shape."""
        return shape in (None, "square") and any(colour in (None, tile.colour) for tile in self.tiles)


def _grouped(things: Iterable[Object], key: Callable[[Object], K]) -> dict[K, list[Object]]:
    found: dict[K, list[Object]] = {}
    for thing in things:
        found.setdefault(key(thing), []).append(thing)
    return found
