"""Image features that are made once per batch, although many configurations ask for them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from greedyprune.cues import Attention, Grid, Text

if TYPE_CHECKING:
    from greedyprune.attach.parts import Parts
    from greedyprune.method import Method


class Images:
    """While entered, the features of images that were encoded before are handed out again: equal tensors in.

    `reuse` is False for methods that want to see the vision tower at work; then it runs as usual.
    """

    def __init__(self, parts: Parts) -> None:
        self._outer: Any = parts.outer
        self.reuse = True

    def allow(self, method: Method | None) -> None:
        """Reuse features for this method if nothing that it needs is seen inside the tower."""
        self.reuse = all(
            isinstance(need, (Text, Grid)) or (isinstance(need, Attention) and need.kind == "last_text")
            for need in (method.needs if method else ())
        )

    def __enter__(self) -> Images:
        real = self._outer.get_image_features
        held: dict[Any, tuple[Any, Any]] = {}

        @functools.wraps(real)  # generate() reads the signature
        def remembered(*args: Any, **kwargs: Any) -> Any:
            if not self.reuse:
                return real(*args, **kwargs)
            key = tuple(map(id, args)), tuple((name, id(value)) for name, value in sorted(kwargs.items()))
            if key not in held:
                held[key] = ((args, kwargs), real(*args, **kwargs))  # what is held keeps its id
            return held[key][1]

        self._outer.get_image_features = remembered
        return self

    def __exit__(self, *_: object) -> None:
        del self._outer.get_image_features
