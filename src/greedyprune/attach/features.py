"""Watching the model compute the features of images, videos and sounds: how many rows each has, and what was seen.

generate() computes them before the forward in new releases, the forward itself does in old ones and when it is called
directly. Both call the model's `get_image_features` and its like, which are no modules and cannot be hooked: while
pruned, the outer model has an attribute of that name in front of its own method, which `remove()` takes away again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from torch import Tensor

from greedyprune.attach.tower import KIND

if TYPE_CHECKING:
    from torch import nn

    from greedyprune.attach.call import Call
    from greedyprune.models.parts import Parts


INSIDE: ContextVar[bool] = ContextVar("greedyprune_features", default=False)
"""Whether features are being computed in this thread."""


class Watch:
    """Stands in front of the methods that compute features; `remove` takes it away."""

    def __init__(self, parts: Parts, call: Callable[[], Call | None]) -> None:
        self._call, self._undo = call, list[Callable[[], None]]()
        for medium, _ in parts.media:
            own = getattr(parts.outer, medium.features, None) if medium.features else None
            if own is not None:
                watched = wraps(own)(partial(self._computed, medium.kind, own))
                self._undo.append(put_in_front(parts.outer, medium.features, watched))

    def _computed(self, kind: str, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outermost = not INSIDE.get()  # some models compute a video's features by the method for images
        inside, token = INSIDE.set(True), KIND.set(kind if outermost else KIND.get())
        try:
            features = own(*args, **kwargs)
        finally:
            KIND.reset(token)
            INSIDE.reset(inside)
        call = self._call()
        if call is not None and outermost:
            call.features[kind] = features
        return features

    def remove(self) -> None:
        """The model's own methods again, or what stood in front of them before."""
        for undo in self._undo:
            undo()
        self._undo.clear()


def put_in_front(module: nn.Module, name: str, made: Any) -> Callable[[], None]:
    """Give a module an attribute in front of its own method; what is returned puts back what stood there before."""
    own, before = vars(module), vars(module).get(name)
    own[name] = made

    def undo() -> None:
        if own.get(name) is not made:  # somebody stands in front of it since, and will call it as long as that stays
            return
        if before is not None:
            own[name] = before
        else:
            del own[name]

    return undo


def lengths(features: Any) -> list[int] | None:
    """How many rows each image has, None where the model does not say it image by image."""
    rows = getattr(features, "pooler_output", features)
    if isinstance(rows, Tensor):
        return [rows.shape[1]] * rows.shape[0] if rows.ndim == 3 else None
    if isinstance(rows, (list, tuple)) and all(isinstance(each, Tensor) for each in rows):
        return [each.shape[:-1].numel() for each in rows]
    return None
