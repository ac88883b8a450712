"""Standing in front of `generate`: what only it knows of a prompt, and what cannot be right inside it.

A forward sees token ids and cannot tell a prompt from what generation put behind it: an assistant's guesses, which are
read along with the prompt, or the answer so far, which is read again at every step without a cache. `generate` knows
how long the prompt is. So while a model is pruned, each of its modules that can generate has an attribute of that name
in front of its own method, which `remove()` takes away again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from torch import Tensor

from greedyprune.attach.entry import brings_media, refuse_right_padding
from greedyprune.attach.features import put_in_front
from greedyprune.attach.release import cache_in

if TYPE_CHECKING:
    from greedyprune.attach.parts import Parts


@dataclass(eq=False)
class Generation:
    """One run of `generate`."""

    owner: object
    """The pruned model's hooks."""
    length: int
    """How many tokens the prompt has, those in the cache included."""
    told: bool = False
    """Whether the prompt was reported already: without a cache it is read again at every step."""


_GENERATION: ContextVar[Generation | None] = ContextVar("greedyprune_generation", default=None)
"""The innermost `generate` that runs now, None outside."""


class Generating:
    """Stands in front of `generate` on everything that can; `remove` takes it away."""

    def __init__(self, parts: Parts, owner: object) -> None:
        self._parts, self._owner, self._undo = parts, owner, list[Callable[[], None]]()
        for holder in parts.holders:
            own = getattr(holder, "generate", None) if hasattr(type(holder), "generate") else None
            if own is not None:
                self._undo.append(put_in_front(holder, "generate", wraps(own)(partial(self._generate, own))))

    def _generate(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if brings_media(self._parts, kwargs):
            refuse_right_padding(kwargs.get("attention_mask"))
        length = _prompt_length(args, kwargs)
        token = _GENERATION.set(Generation(self._owner, length) if length else None)
        try:
            return own(*args, **kwargs)
        finally:
            _GENERATION.reset(token)

    def remove(self) -> None:
        """The modules' own methods again, or what stood in front of them before."""
        for undo in self._undo:
            undo()
        self._undo.clear()


def _prompt_length(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many tokens the prompt has so far, 0 if that is not known. The ids are all of it, or what the cache lacks."""
    ids: Any = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
    given = [each for each in (ids, kwargs.get("attention_mask")) if isinstance(each, Tensor) and each.ndim == 2]
    if ids is None or not given:
        return 0
    length, held = max(each.shape[1] for each in given), cache_in(kwargs)
    past = held.get_seq_length() if hasattr(held, "get_seq_length") else 0
    return length + past if length <= past else length


def generation(owner: object) -> Generation | None:
    """The run of `generate` that the forward of this pruned model belongs to; None for a forward by hand."""
    running = _GENERATION.get()
    return running if running is not None and running.owner is owner else None


def behind_prompt(owner: object, total: int) -> int:
    """How many of the last tokens of `total` so far are no prompt, but guesses or an answer."""
    running = generation(owner)
    return 0 if running is None else max(total - running.length, 0)
