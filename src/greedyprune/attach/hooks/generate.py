"""In front of `generate`: what only it knows of a prompt, and what cannot be right inside it.

A forward sees token ids. It cannot tell a prompt from what generation put behind it: draft tokens of an assistant
model, which are read together with the prompt, or the answer so far, which is read again at every step without a
cache. `generate` knows how long the prompt is. So while a model is pruned, each of its modules that can generate has
an attribute of that name in front of its own method, which `remove` takes away again.
"""

from __future__ import annotations

import inspect
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from greedyprune.attach.context import GENERATION, Generation
from greedyprune.attach.forward import refusals
from greedyprune.models._front import Attached, put_in_front
from greedyprune.models.release import cache_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from greedyprune.attach.context import Wish
    from greedyprune.models.parts import Parts


class GenerateWatch(Attached):
    """Stands in front of `generate` on every module that has it. `wish` tells what is to be done to a call."""

    def __init__(self, parts: Parts, wish: Callable[[], Wish]) -> None:
        self._parts, self._wish, self._undo = parts, wish, list["Callable[[], None]"]()

    def register(self) -> None:
        """Stand in front of the methods."""
        for holder in self._parts.holders:
            own = getattr(holder, "generate", None) if hasattr(type(holder), "generate") else None
            if own is not None:
                watched = wraps(own)(partial(self._generate, holder, own))
                self._undo.append(put_in_front(holder, "generate", watched))

    def remove(self) -> None:
        """Give the modules their own methods back, or what stood in front of them before."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _generate(self, holder: Any, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._undo:  # somebody kept the attribute, and the model is not pruned any more
            return own(*args, **kwargs)
        given = {**dict(zip(inspect.signature(own).parameters, args, strict=False)), **kwargs}
        ids: Any = given.get("input_ids", given.get("inputs"))
        ids = ids if isinstance(ids, Tensor) and ids.ndim == 2 else None
        if refusals.brings_media(self._parts, given):
            refusals.refuse_right_padding(given.get("attention_mask"), ids, _padding(holder, given))
        elif (wish := self._wish()).of_one_call and cache_in(given) is None:
            refusals.refuse_hints(wish.hints)
        now = None if ids is None else Generation(self._parts, ids.cpu(), _length(ids, given))
        token = GENERATION.set(now)
        try:
            return own(*args, **kwargs)
        finally:
            GENERATION.reset(token)


def _length(ids: Tensor, given: dict[str, Any]) -> int:
    """The number of tokens of the prompt. The ids are all of it, or the part that the cache lacks."""
    mask, held = given.get("attention_mask"), cache_in(given)
    length = max(ids.shape[1], mask.shape[1] if isinstance(mask, Tensor) and mask.ndim == 2 else 0)
    past = held.get_seq_length() if hasattr(held, "get_seq_length") else 0
    return length + past if length <= past else length


def _padding(holder: Any, given: dict[str, Any]) -> int | None:
    """The token that `generate` takes for padding if no mask is given; None if there is none."""
    rules = given.get("generation_config") or getattr(holder, "generation_config", None)
    pad, end = (given.get(name, getattr(rules, name, None)) for name in ("pad_token_id", "eos_token_id"))
    ends: list[object] = list(cast("list[object]", end)) if isinstance(end, (list, tuple)) else [end]
    return pad if isinstance(pad, int) and pad not in ends else None
