"""Decoder layers before the cut that are computed once per batch, although many configurations run them.

Before the first cut every configuration runs the same layers over the same states. Their outputs, keys and values are
remembered with their inputs, and given again to a call with equal inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.models._front import put_in_front
from greedyprune.models.reads import layers_of
from greedyprune.models.release import CACHE_NAMES, cache_in

if TYPE_CHECKING:
    from greedyprune.models.parts import Parts


@dataclass(frozen=True, eq=False)
class Ran:
    """One layer's run over a whole prompt."""

    given: tuple[tuple[Any, ...], dict[str, Any]]
    """Its arguments by position and by name, without the cache."""
    output: Any
    """What it returned: a tensor, or a tuple of tensors and None."""
    keys: Tensor
    values: Tensor


Prefix = dict[int, Ran]
"""The runs of a batch, by decoder layer."""


@contextmanager
def shared_prefix(parts: Parts, remembered: Prefix, before: int) -> Iterator[None]:
    """Inside, decoder layers in front of layer `before` are remembered, and not run again on equal inputs.

    A layer is remembered if it fills an empty cache with one key per state and returns tensors. Others run as usual.
    """
    with ExitStack() as undo:
        for index in range(min(before, len(parts.layers))):
            undo.callback(put_in_front(parts.layers[index], "forward", _in_front(parts, remembered, index)))
        yield


def _in_front(parts: Parts, remembered: Prefix, index: int) -> Any:
    """The forward of one layer that looks first whether the batch has run it."""
    real = parts.layers[index].forward

    @functools.wraps(real)
    def forward(*args: Any, **kwargs: Any) -> Any:
        cache = cache_in(kwargs)
        held = layers_of(cache)
        if index >= len(held) or held[index].get_seq_length():
            return real(*args, **kwargs)
        given = args, {name: value for name, value in kwargs.items() if name not in CACHE_NAMES}
        ran = remembered.get(index)
        if ran is not None and _same(ran.given, given):
            cache.update(ran.keys.clone(), ran.values.clone(), index)
            return _copy(ran.output)
        given = _copy(given)
        output = real(*args, **kwargs)
        keys: Any = getattr(held[index], "keys", None)
        values: Any = getattr(held[index], "values", None)
        states: Any = output[0] if isinstance(output, tuple) else output
        if not all(isinstance(each, Tensor) for each in (states, keys, values)):
            return output
        if keys.shape[-2] == states.shape[1]:
            remembered[index] = Ran(given, _copy(output), keys.clone(), values.clone())
        return output

    return forward


def _same(a: Any, b: Any) -> bool:
    """True if these are equal, bit by bit and in the same shapes."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.device == b.device and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and (a is b or a == b)


def _copy(value: Any) -> Any:
    """A copy that shares no tensor."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_copy(each) for each in value)
    return value
