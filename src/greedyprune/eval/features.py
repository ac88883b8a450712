"""Image features that are made once per batch, although many configurations ask for them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from greedyprune.attach.context import CALL
from greedyprune.attach.features import put_in_front

if TYPE_CHECKING:
    from greedyprune.attach.parts import Parts
    from greedyprune.cues import Need
    from greedyprune.method import Method


class Images:
    """While entered, the features of images that were encoded before are handed out again: equal tensors in.

    Methods that look into the vision tower share features with those that look for the same there, since features carry
    what was seen, unless the tower runs inside a forward, which is told at once and carries nothing.
    """

    def __init__(self, parts: Parts) -> None:
        self._outer: Any = parts.outer
        self.looked: tuple[Need, ...] = ()

    def allow(self, method: Method | None) -> None:
        """Say which method asks now."""
        self.looked = tuple(need for need in (method.needs if method else ()) if need.in_tower)

    def __enter__(self) -> Images:
        real = self._outer.get_image_features
        held: dict[Any, tuple[Any, Any]] = {}

        @functools.wraps(real)  # generate() reads the signature
        def remembered(*args: Any, **kwargs: Any) -> Any:
            if self.looked and CALL.get() is not None:
                return real(*args, **kwargs)
            key = self.looked, *map(id, args), *((name, id(value)) for name, value in sorted(kwargs.items()))
            if key not in held:
                held[key] = ((args, kwargs), real(*args, **kwargs))  # what is held keeps its id
            return held[key][1]

        self._undo = put_in_front(self._outer, "get_image_features", remembered)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo()
