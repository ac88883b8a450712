"""Hooks before the decoder: on the vision tower, and on the methods that compute features of images, videos and sounds.

In new releases of transformers, `generate` computes the features before the forward. In old ones, and if the model is
called directly, the forward does. Both call methods such as `get_image_features`, which are no modules and take no
hooks. So while a model is pruned, it has an instance attribute of that name, which hides its own method. `remove`
deletes the attribute.
"""

from __future__ import annotations

from functools import partial, wraps
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

from torch import Tensor

from greedyprune.attach.context import ENCODING, TOWER_RUNS, TowerRun
from greedyprune.cues import Attention, Encoded, Keys
from greedyprune.models._front import Attached, LateHooks, put_in_front
from greedyprune.models.folds import packed
from greedyprune.models.needs import in_tower, placed
from greedyprune.probes.tower import class_row, received_row, tower_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn
    from torch.utils.hooks import RemovableHandle

    from greedyprune.attach.context import Forward, Wish
    from greedyprune.cues import Seen
    from greedyprune.models.parts import Parts

CARRIED = "greedyprune_seen"
"""The key of the tower's values in the features, since `generate` computes the features before the forward."""


class FeatureWatch(Attached):
    """Stores the features that a model computes for each kind of input."""

    def __init__(self, parts: Parts, running: Callable[[], Forward | None]) -> None:
        self._parts, self._running, self._undo = parts, running, list["Callable[[], None]"]()

    def register(self) -> None:
        """Wrap the methods that compute features."""
        for medium, _ in self._parts.media:
            own = getattr(self._parts.outer, medium.features, None) if medium.features else None
            if own is not None:
                watched = wraps(own)(partial(self._compute, medium.kind, own))
                self._undo.append(put_in_front(self._parts.outer, medium.features, watched))

    def remove(self) -> None:
        """Restore the model's own methods, or the attributes that hid them before."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _compute(self, kind: str, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outer = ENCODING.get()  # some models compute a video's features with the method for images
        token, runs = ENCODING.set(outer or kind), TOWER_RUNS.get()
        try:
            features = own(*args, **kwargs)
        finally:
            ENCODING.reset(token)
            TOWER_RUNS.set(runs)  # an interrupt passes by the tower's own hooks
        forward = self._running()
        if forward is not None and outer is None:
            forward.features[kind] = features
        return features


class TowerHooks(Attached):
    """Hooks on the vision tower. They read the needs of a call's method, and nothing if it has no need in the tower."""

    def __init__(self, parts: Parts, wish: Callable[[], Wish], running: Callable[[], Forward | None]) -> None:
        self._parts, self._wish, self._running = parts, wish, running
        self._handles: list[RemovableHandle] = []
        self._layers = LateHooks(self._register_layers)
        self._undo: list[Callable[[], None]] = []

    def register(self) -> None:
        """Register the hooks of the tower itself. There are none if the tower is not known."""
        if self._parts.tower is None:
            return
        if self._packs:
            own = cast("Any", self._parts.outer).pack_image_features
            watched = wraps(own)(partial(self._pack, own))
            self._undo.append(put_in_front(self._parts.outer, "pack_image_features", watched))
        self._handles.append(self._parts.tower.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._handles.append(self._parts.tower.register_forward_hook(self._end, always_call=True))

    def remove(self) -> None:
        """Remove the hooks, and free the values that they read."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._layers.remove()
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._forget()

    def _register_layers(self) -> Iterator[RemovableHandle]:
        for index, (layer, attention) in enumerate(self._parts.tower_layers):
            yield attention.register_forward_pre_hook(partial(self._look, index), with_kwargs=True)
            yield layer.register_forward_hook(partial(self._after, index))

    @property
    def _packs(self) -> bool:
        return self._parts.family.tower is not None and self._parts.family.tower.packs

    def _forget(self) -> None:
        """Free the values that were read, also if an interrupt ended the tower's run."""
        if TOWER_RUNS.get():
            TOWER_RUNS.set(tuple(run for run in TOWER_RUNS.get() if run.owner() not in (None, self)))

    def _run(self) -> TowerRun | None:
        return next((run for run in TOWER_RUNS.get() if run.owner() is self), None)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if kwargs is None:  # as `LateHooks` says
            return
        self._forget()
        forward = self._running()
        wish = self._wish() if forward is None or forward.wish is None else forward.wish
        wanted = [placed(self._parts, need) for need in in_tower(wish.policy)]
        if wanted:
            assert self._parts.family.tower is not None
            sizes = kwargs.get(self._parts.family.tower.sizes, args[1] if len(args) > 1 else None)
            run = TowerRun(ref(self), wanted, sizes)
            TOWER_RUNS.set((*TOWER_RUNS.get(), run))
            self._layers.ensure()

    def _look(
        self, index: int, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        run = self._run()
        if run is None or kwargs is None:
            return
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        for need in run.wanted:
            if need.layer != index:
                continue
            if isinstance(need, Keys):
                run.rows[need] = tower_keys(attention, states)
            elif isinstance(need, Attention) and need.kind == "cls":
                run.rows[need] = class_row(attention, states, one=need.heads == "one")
            elif isinstance(need, Attention):
                assert need.kind == "received", f"no probe reads {need!r}"
                run.rows[need] = received_row(attention, states, kwargs, one=need.heads == "one")

    def _after(self, index: int, layer: nn.Module, args: Any, output: Any) -> None:
        run = self._run()
        if run is not None and (need := Encoded(index)) in run.wanted:
            states = cast("tuple[Tensor, ...]", output)[0] if isinstance(output, tuple) else cast("Tensor", output)
            run.rows[need] = states.detach()

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        run, forward = self._run(), self._running()
        if run is None or output is None or not self._packs:
            self._forget()
        if run is None or output is None:  # the method has no need here, or the tower raised
            return
        if (need := Encoded()) in run.wanted:
            named = cast("dict[str, Tensor]", output) if isinstance(output, dict) else None
            states = cast("tuple[Tensor, ...]", output)[0] if named is None else named["last_hidden_state"]
            run.rows[need] = states.detach()
        if not self._packs:  # otherwise what follows the tower still has to say which rows are tokens
            tower, config = self._parts.family.tower, self._parts.config
            assert tower is not None
            run.seen.update({need: tower.by_token(config, need, rows, run.sizes) for need, rows in run.rows.items()})
        if forward is not None:
            forward.seen[ENCODING.get() or "image"] = run.seen
        elif isinstance(output, dict):
            output[CARRIED] = run.seen  # an entry, no attribute: accelerate rebuilds such outputs from their entries

    def _pack(self, own: Callable[..., Any], tiles: Any, *sizes: Any, **options: Any) -> Any:
        """Pack what was read in the tower as the model packs the tokens of its tiles."""
        run = self._run()
        if run is not None:
            for need, rows in run.rows.items():
                run.seen[need] = packed(own, rows, tiles, *sizes, **options).mean(1)
            self._forget()
        return own(tiles, *sizes, **options)


def carried(features: Any) -> dict[Seen, Tensor]:
    """Return the tower's values in features that were computed before this forward; empty if there are none."""
    return cast("dict[str, Any]", features).get(CARRIED, {}) if isinstance(features, dict) else {}
