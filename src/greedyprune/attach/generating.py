"""Standing in front of `generate`: what only it knows of a prompt, and what cannot be right inside it.

A forward sees token ids and cannot tell a prompt from what generation put behind it: an assistant's guesses, which are
read along with the prompt, or the answer so far, which is read again at every step without a cache. `generate` knows
how long the prompt is. So while a model is pruned, each of its modules that can generate has an attribute of that name
in front of its own method, which `remove()` takes away again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.attach.entry import brings_media, refuse_right_padding
from greedyprune.attach.features import put_in_front
from greedyprune.models.release import cache_in

if TYPE_CHECKING:
    from greedyprune.models.parts import Parts


@dataclass(eq=False)
class Generation:
    """One run of `generate`."""

    owner: object
    """The pruned model's hooks."""
    ids: Tensor
    """(b, n) the token ids it was called with, on the CPU: the prompt, or what the cache lacks of it."""
    length: int
    """How many tokens the prompt has, those in the cache included."""
    told: bool = False
    """Whether the prompt was reported already: without a cache it is read again at every step."""

    def reads(self, ids: Tensor, past: int) -> bool:
        """Whether a forward reads this prompt, and is none that somebody makes by hand meanwhile. (b', q) on the CPU"""
        count, times = self.length - past, ids.shape[0] // self.ids.shape[0]
        if not 0 < count <= min(ids.shape[1], self.ids.shape[1]) or times * self.ids.shape[0] != ids.shape[0]:
            return False
        return torch.equal(ids[:, :count], self.ids[:, -count:].repeat_interleave(times, 0))


_GENERATION: ContextVar[Generation | None] = ContextVar("greedyprune_generation", default=None)
"""The innermost `generate` that runs now, None outside."""


class Generating:
    """Stands in front of `generate` on everything that can; `remove` takes it away."""

    def __init__(self, parts: Parts, owner: object) -> None:
        self._parts, self._owner, self._undo = parts, owner, list[Callable[[], None]]()
        for holder in parts.holders:
            own = getattr(holder, "generate", None) if hasattr(type(holder), "generate") else None
            if own is not None:
                watched = wraps(own)(partial(self._generate, holder, own))
                self._undo.append(put_in_front(holder, "generate", watched))

    def _generate(self, holder: Any, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._undo:  # somebody kept it, and the model is not pruned any more
            return own(*args, **kwargs)
        given = {**dict(zip(inspect.signature(own).parameters, args, strict=False)), **kwargs}
        ids: Any = given.get("input_ids", given.get("inputs"))
        ids = ids if isinstance(ids, Tensor) and ids.ndim == 2 else None
        if brings_media(self._parts, given):
            refuse_right_padding(given.get("attention_mask"), ids, _padding(holder, given))
        token = _GENERATION.set(None if ids is None else Generation(self._owner, ids.cpu(), _length(ids, given)))
        try:
            return own(*args, **kwargs)
        finally:
            _GENERATION.reset(token)

    def remove(self) -> None:
        """The modules' own methods again, or what stood in front of them before."""
        for undo in self._undo:
            undo()
        self._undo.clear()


def _length(ids: Tensor, given: dict[str, Any]) -> int:
    """How many tokens the prompt has so far. The ids are all of it, or what the cache lacks."""
    mask, held = given.get("attention_mask"), cache_in(given)
    length = max(ids.shape[1], mask.shape[1] if isinstance(mask, Tensor) and mask.ndim == 2 else 0)
    past = held.get_seq_length() if hasattr(held, "get_seq_length") else 0
    return length + past if length <= past else length


def _padding(holder: Any, given: dict[str, Any]) -> int | None:
    """The token that `generate` takes for padding where no mask is given; None if there is none."""
    rules = given.get("generation_config") or getattr(holder, "generation_config", None)
    pad, end = (given.get(name, getattr(rules, name, None)) for name in ("pad_token_id", "eos_token_id"))
    ends = end if isinstance(end, (list, tuple)) else [end]
    return pad if isinstance(pad, int) and pad not in ends else None


def generation(owner: object) -> Generation | None:
    """The run of `generate` of this pruned model that is under way, None outside."""
    running = _GENERATION.get()
    return running if running is not None and running.owner is owner else None
