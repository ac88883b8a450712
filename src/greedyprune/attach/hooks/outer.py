"""Hooks on the outer model, whose forward gets token ids and images, and on the models around it.

A forward begins and ends here. Calls that cannot be pruned correctly are refused here, before the model runs.
"""

from __future__ import annotations

import threading
import time
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from torch import Tensor

from greedyprune.attach.context import FORWARD, GENERATION, TRIAL, Forward, Host
from greedyprune.attach.forward import refusals
from greedyprune.attach.hooks.selftest import prove
from greedyprune.models._front import Attached, put_in_front
from greedyprune.models.reads import length_of
from greedyprune.models.release import argument_names, cache_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.utils.hooks import RemovableHandle

    from greedyprune.attach.context import Wish
    from greedyprune.models.parts import Parts


class OuterHooks(Attached):
    """The hooks of the outer model. `wish` returns the wish for a call that starts now.

    `carried` returns the vision tower's values in features that were computed before the forward."""

    def __init__(self, parts: Parts, wish: Callable[[], Wish], carried: Callable[[Any], dict[Any, Tensor]]) -> None:
        self._parts, self._wish, self._carried = parts, wish, carried
        self._names = argument_names(parts.outer)
        self._handles: list[RemovableHandle] = []
        self._undo: Callable[[], None] | None = None
        self._forwards: set[Forward] = set()
        self._lock, self._closing = threading.Lock(), False
        self._proven: list[list[int]] = []

    def register(self) -> None:
        """Register the hooks."""
        parts, own = self._parts, self._parts.outer.forward
        for holder in parts.holders[:-1]:
            hook = partial(self._hold, argument_names(holder))
            self._handles.append(holder.register_forward_pre_hook(hook, with_kwargs=True))
        self._handles.append(parts.outer.register_forward_pre_hook(self._enter, with_kwargs=True))
        self._handles.append(parts.outer.register_forward_hook(self._leave, always_call=True))
        self._undo = put_in_front(parts.outer, "forward", wraps(own)(partial(self._forward, own)))

    def close(self) -> None:
        """Wait for forwards that run. Forwards that begin while it waits are not pruned.

        Raises RuntimeError inside a forward of this thread.
        """
        with self._lock:
            self._closing = True
        while running := list(self._forwards):
            mine = [forward for forward in running if forward.thread == threading.get_ident()]
            if mine and any(module is self._parts.outer for _, module in refusals.callers("_call_impl")):
                self._closing = False
                raise RuntimeError("the pruning cannot be removed inside a forward of the model: call remove() later.")
            for forward in mine:  # an interrupt ended them
                self._end(forward)
            time.sleep(0.001)

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._undo is not None:
            self._undo()
            self._undo = None

    def running(self) -> Forward | None:
        """Return the forward of this model that runs now; None if there is none."""
        forward = FORWARD.get()
        return forward if forward is not None and forward.parts is self._parts else None

    def _hold(
        self, names: list[str], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        if kwargs is None:  # as `LateHooks` says
            return
        given = {**kwargs, **dict(zip(names, args, strict=False))} if args else kwargs
        if refusals.asks_for_all(given) and refusals.brings_media(self._parts, given):
            refusals.refuse_labels(given)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        FORWARD.set(None)
        if kwargs is None:  # as `LateHooks` says
            return
        trial = TRIAL.get()
        if trial is not None and trial.wish is None:
            return
        if args:
            kwargs = {**kwargs, **dict(zip(self._names, args, strict=False))}
        ids: Any = kwargs.get("input_ids")
        cache, mask, generation = cache_in(kwargs), kwargs.get("attention_mask"), GENERATION.get()
        generation = generation if generation is not None and generation.parts is self._parts else None
        computed: dict[str, Any] = {}
        places: dict[str, Tensor] = {}
        host: Host | None = None
        if refusals.brings_media(self._parts, kwargs):
            given: dict[str, Any] = kwargs.get("mm_encoder_outputs") or {}
            computed = {kind: features for kind, features in given.items() if features is not None}
            refusals.refuse_unclear(ids, mask, cache, images=True)
            refusals.refuse_labels(kwargs)
            refusals.refuse_unknown_inputs(self._parts, kwargs, computed)
            refusals.refuse_callers(self._parts, watched=generation is not None)
            host = Host.of(ids, mask, kwargs.get("position_ids"))
            for medium, token in self._parts.media:
                if medium.kind in computed or any(kwargs.get(name) is not None for name in medium.inputs):
                    places[medium.kind] = host.ids == token
        else:
            refusals.refuse_unclear(ids, mask, cache, images=False)
        wish, past = None, length_of(cache)
        if places or ids.shape[1] > 1 or not past:  # one token behind others is a step of decoding
            refusals.warn_if_unbrought(self._parts, kwargs, ids if host is None else host.ids, {*places, *computed})
            wish = self._wish() if trial is None else trial.wish
        if places and wish is not None:
            refusals.refuse_cache(cache, early=wish.policy.early)
            if wish.policy.starts:
                refusals.refuse_checkpointing(self._parts)
            self._prove(wish, module, kwargs)
        seen = {kind: self._carried(features) for kind, features in computed.items()} if computed else {}
        forward = Forward(self._parts, wish, ids, places, cache, past, mask, generation, computed, seen, host)
        with self._lock:
            if self._closing:
                return
            self._forwards.add(forward)
        FORWARD.set(forward)

    def _prove(self, wish: Wish, module: nn.Module, kwargs: dict[str, Any]) -> None:
        """Run the self-test of a model type that is not in the table, once for each place of the cut."""
        place = wish.policy.starts[:1]
        if TRIAL.get() is None and not self._parts.family.proven and place not in self._proven:
            prove(self._parts, wish.policy, module, kwargs)
            self._proven.append(place)

    def _forward(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the outer model's forward and then end ours, however it ended: an interrupt skips the hooks."""
        try:
            return own(*args, **kwargs)
        finally:
            forward = FORWARD.get()  # as `running` does, without the call: every step of decoding asks
            if forward is not None and forward.parts is self._parts:
                self._end(forward)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        forward = FORWARD.get()
        if forward is not None and forward.parts is self._parts:  # a hook raised, or other code replaced the forward
            self._end(forward)

    def _end(self, forward: Forward) -> None:
        self._forwards.discard(forward)
        forward.work = None  # it holds the forward in turn: no step of decoding waits for the garbage collector
        if FORWARD.get() is forward:
            FORWARD.set(None)
