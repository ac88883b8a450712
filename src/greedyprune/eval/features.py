"""Image features that are computed once per batch, although many configurations need them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greedyprune.attach.context import FORWARD
from greedyprune.models._front import put_in_front

if TYPE_CHECKING:
    from greedyprune.method import Method
    from greedyprune.models.parts import Parts

Computed = dict[Any, tuple[Any, Any]]
"""Features of one batch: by the method's needs and the arguments' identity, (arguments, features)."""


@contextmanager
def shared_features(parts: Parts, computed: Computed, method: Method | None) -> Iterator[None]:
    """Inside, equal tensors get the features that were computed for them before, and new ones are added to `computed`.

    `method` is the method that prunes inside, None for the dense model. Methods that look into the vision tower share
    features with methods that look for the same there, since features carry what the tower showed. If the tower runs
    inside a forward, nothing is shared: what the tower shows goes to that forward at once.
    """
    outer: Any = parts.outer
    real = outer.get_image_features
    needs = tuple(need for need in (method.needs if method else ()) if need.in_tower)

    @functools.wraps(real)  # generate() reads the signature
    def remembered(*args: Any, **kwargs: Any) -> Any:
        if needs and FORWARD.get() is not None:
            return real(*args, **kwargs)
        key = needs, *map(id, args), *((name, id(value)) for name, value in sorted(kwargs.items()))
        if key not in computed:
            computed[key] = ((args, kwargs), real(*args, **kwargs))  # the arguments are held, so no other gets their id
        return computed[key][1]

    undo = put_in_front(outer, "get_image_features", remembered)
    try:
        yield
    finally:
        undo()
