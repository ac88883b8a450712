"""Looking into the vision tower while it runs, and telling what was seen there by visual token, image by image."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from torch import Tensor, nn

from greedyprune.cues import Attention, Features, Keys
from greedyprune.models.needs import Seen, in_tower, placed, told
from greedyprune.probes.tower import class_row, received_row, tower_keys

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from greedyprune.attach.call import Call
    from greedyprune.models._family import ImageTokens
    from greedyprune.models.parts import Parts
    from greedyprune.policy import Policy


@dataclass(eq=False)
class Sight:
    """One run of a tower that is looked into."""

    wanted: list[Seen]
    """What is looked for, each with the number of its layer."""
    grids: Tensor | None
    """The images' patch grids, where the tower is called with them."""
    rows: dict[Seen, Tensor] = field(default_factory=dict)
    """What was seen so far, by the tower's rows."""


_SIGHTS: ContextVar[tuple[tuple[ReferenceType[TowerHooks], Sight], ...]] = ContextVar("greedyprune_tower", default=())
"""The runs of towers in this context that are looked into, each with the hooks that look: models may share a tower."""
KIND: ContextVar[str] = ContextVar("greedyprune_kind", default="image")
"""What features are being computed of in this thread: image or video."""
CARRIED = "greedyprune_seen"
"""Under this key image features carry what was seen while they were computed, since generate() does so beforehand."""


class TowerHooks:
    """Hooks on the vision tower that look at what the method of a call asks for, and do nothing where it asks not."""

    def __init__(self, parts: Parts, policy: Callable[[], Policy], call: Callable[[], Call | None]) -> None:
        self._parts, self._policy, self._call = parts, policy, call

    def register(self) -> list[RemovableHandle]:
        """Put the hooks on; there are none where the tower is not known."""
        if self._parts.tower is None:
            return []
        handles = [
            self._parts.tower.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._parts.tower.register_forward_hook(self._end, always_call=True),
        ]
        for index, (layer, attention) in enumerate(self._parts.tower_layers):
            handles.append(attention.register_forward_pre_hook(partial(self._look, index), with_kwargs=True))
            handles.append(layer.register_forward_hook(partial(self._after, index)))
        return handles

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.forget()
        wanted = [placed(self._parts, need) for need in in_tower(self._policy())]
        if wanted:
            sight = Sight(wanted, kwargs.get("grid_thw", args[1] if len(args) > 1 else None))
            _SIGHTS.set((*_SIGHTS.get(), (ref(self), sight)))

    def _sight(self) -> Sight | None:
        return next((sight for owner, sight in _SIGHTS.get() if owner() is self), None)

    def forget(self) -> None:
        """Let go of what was seen, also where an interrupt ended the tower's run."""
        if _SIGHTS.get():
            _SIGHTS.set(tuple(pair for pair in _SIGHTS.get() if pair[0]() not in (None, self)))

    def _look(self, index: int, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sight = self._sight()
        if sight is None:
            return
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        for need in sight.wanted:
            if need.layer != index:
                continue
            if isinstance(need, Keys):
                sight.rows[need] = tower_keys(attention, states)
            elif isinstance(need, Attention) and need.kind == "cls":
                sight.rows[need] = class_row(attention, states, one=need.heads == "one")
            elif isinstance(need, Attention):
                sight.rows[need] = received_row(attention, states, kwargs, one=need.heads == "one")

    def _after(self, index: int, layer: nn.Module, args: Any, output: Any) -> None:
        sight = self._sight()
        if sight is not None and (need := Features(index)) in sight.wanted:
            sight.rows[need] = (output[0] if isinstance(output, tuple) else output).detach()

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        sight, call = self._sight(), self._call()
        self.forget()
        if sight is None or output is None:  # nothing is looked for, or the tower raised
            return
        if (need := Features()) in sight.wanted:
            sight.rows[need] = (output["last_hidden_state"] if isinstance(output, dict) else output[0]).detach()
        seen = {need: self._folded(need, rows, sight.grids) for need, rows in sight.rows.items()}
        if call is not None:
            call.seen[KIND.get()] = seen
        elif isinstance(output, dict):
            output[CARRIED] = seen  # an entry, no attribute: accelerate builds such outputs anew from their entries

    def _folded(self, need: Seen, rows: Tensor, grids: Tensor | None) -> Tensor:
        """By visual token what was seen of its patches: the sum of attention, else the mean. -> (n, ...)"""
        assert self._parts.family.tower is not None
        patches = self._parts.family.tower.fold(self._parts.config, rows, grids)
        return patches.sum(1) if isinstance(need, Attention) else patches.mean(1)


def carried(features: Any) -> dict[Seen, Tensor]:
    """What image features carry that were computed before this call."""
    return features.get(CARRIED, {}) if isinstance(features, dict) else {}


def look_at_tower(call: Call) -> None:
    """Note for every image what the method needs of the vision tower. Raises where nobody saw that."""
    assert call.prompt is not None
    spans = call.prompt.spans
    for need in in_tower(call.policy):
        call.probed[need] = [span.columns.new_empty(0) for span in spans]
        for kind in dict.fromkeys(span.image.kind for span in spans):
            places = [place for place, span in enumerate(spans) if span.image.kind == kind]
            mine, seen = [spans[place] for place in places], call.seen.get(kind, {}).get(placed(call.parts, need))
            values = None if seen is None else _of_images(seen, [s.row for s in mine], [s.image for s in mine])
            if values is None:
                raise ValueError(
                    f"{type(call.policy.method).__name__} needs {told(need)}, and the {kind} features of this call "
                    "came without it: pass pixel_values, or compute the features while the model is pruned."
                )
            for place, value in zip(places, values, strict=True):
                call.probed[need][place] = value


def _of_images(seen: Tensor, rows: list[int], images: list[ImageTokens]) -> list[Tensor] | None:
    """What was seen, image by image; None where it does not belong to these images. `rows`: each image's prompt.

    Beams and several returns repeat every prompt, its images with it, after the tower ran once.
    """
    total = sum(image.n for image in images)
    times = max(total // max(seen.shape[0], 1), 1)
    first: dict[tuple[int, int], int] = {}
    places = [first.setdefault((row // times, rows[:i].count(row)), len(first)) for i, row in enumerate(rows)]
    lengths = [images[places.index(place)].n for place in range(len(first))]
    if sum(lengths) != seen.shape[0] or any(lengths[p] != i.n for p, i in zip(places, images, strict=True)):
        return None
    parts = seen.split(lengths)
    return [parts[place] for place in places]
