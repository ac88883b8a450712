"""A wrapper of `generate`, which notes the length of the prompt and refuses calls that cannot be right.

A forward sees token ids. It cannot tell the prompt from tokens that generation appended: draft tokens of an assistant
model, which are read together with the prompt, or the answer so far, which every step reads again without a KV cache.
Only `generate` knows the length of the prompt. So while a model is pruned, each of its modules with a `generate` has an
instance attribute of that name, which hides its own method. `remove` deletes the attribute.
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
    """Wraps `generate` on every module that has it. `wish` returns the wish for a call that starts now."""

    def __init__(self, parts: Parts, wish: Callable[[], Wish]) -> None:
        self._parts, self._wish, self._undo = parts, wish, list["Callable[[], None]"]()

    def register(self) -> None:
        """Wrap the methods."""
        for holder in self._parts.holders:
            own = getattr(holder, "generate", None) if hasattr(type(holder), "generate") else None
            if own is not None:
                watched = wraps(own)(partial(self._generate, holder, own))
                self._undo.append(put_in_front(holder, "generate", watched))

    def remove(self) -> None:
        """Restore the modules' own methods, or the attributes that hid them before."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _generate(self, holder: Any, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._undo:  # the caller kept the attribute, and the model is no longer pruned
            return own(*args, **kwargs)
        given = {**dict(zip(inspect.signature(own).parameters, args, strict=False)), **kwargs}
        ids: Any = given.get("input_ids", given.get("inputs"))
        ids = ids if isinstance(ids, Tensor) and ids.ndim == 2 else None
        if refusals.brings_media(self._parts, given):
            refusals.refuse_right_padding(given.get("attention_mask"), ids, _padding(holder, given))
            refusals.refuse_chunks(chunked=_rule(holder, given, "prefill_chunk_size") is not None)
            wish = self._wish()
        elif (wish := self._wish()).of_one_call and cache_in(given) is None:
            refusals.refuse_hints(wish.hints)
        now = None if ids is None else Generation(self._parts, ids.cpu(), _length(ids, given), wish)
        token = GENERATION.set(now)
        try:
            return own(*args, **kwargs)
        finally:
            GENERATION.reset(token)


def _length(ids: Tensor, given: dict[str, Any]) -> int:
    """Count the tokens of the prompt. The ids are all of it, or the part that the KV cache lacks."""
    mask, held = given.get("attention_mask"), cache_in(given)
    length = max(ids.shape[1], mask.shape[1] if isinstance(mask, Tensor) and mask.ndim == 2 else 0)
    past = held.get_seq_length() if hasattr(held, "get_seq_length") else 0
    return length + past if length <= past else length


def _rule(holder: Any, given: dict[str, Any], name: str) -> Any:
    """Return what an argument of `generate`, or else its generation config, says under this name."""
    rules = given.get("generation_config") or getattr(holder, "generation_config", None)
    return given.get(name, getattr(rules, name, None))


def _padding(holder: Any, given: dict[str, Any]) -> int | None:
    """Return the token that `generate` treats as padding if no mask is given; None if there is none."""
    pad, end = (_rule(holder, given, name) for name in ("pad_token_id", "eos_token_id"))
    ends: list[object] = list(cast("list[object]", end)) if isinstance(end, (list, tuple)) else [end]
    return pad if isinstance(pad, int) and pad not in ends else None
