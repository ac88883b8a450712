"""Hints: a user's knowledge about the images of one call. It is no part of the policy."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias, cast

from torch import Tensor

Relevance: TypeAlias = tuple[Tensor | None, ...]
"""Per image of a call the relevance of each token to the question, from a model of the user's own; None if unknown."""

Protect: TypeAlias = tuple[tuple[int, ...], ...]
"""Per image of a call the tokens that must be kept; empty if nothing is protected."""


@dataclass(frozen=True, eq=False)
class Hints:
    """Protected tokens and relevance of the images of one call. They belong to these images, not to a policy.

    Hints(protect=((0, 5), ()))     # tokens 0 and 5 of the first image must stay
    """

    protect: Protect = ()
    """Per image the tokens that must stay; empty if nothing is protected."""
    relevance: Relevance = ()
    """Per image the (n,) relevance of each token to the question, or None; empty if nothing is known."""


def as_protect(protect: object) -> Protect:
    """Check a user's `protect`: per image the token numbers that must be kept, or None."""
    if protect is None:
        return ()
    images = cast("object", cast("Any", protect).tolist()) if isinstance(protect, Tensor) else protect
    if isinstance(images, (str, bytes)) or not isinstance(images, Sequence):
        raise TypeError(f"protect={protect!r}: write one list of token numbers per image, such as [[0, 5], None].")
    return tuple(() if given is None else _numbers(protect, given) for given in cast("Sequence[object]", images))


def as_relevance(relevance: object) -> Relevance:
    """Check a user's `relevance`: per image the (n,) values of its tokens, or None."""
    if relevance is None:
        return ()
    if isinstance(relevance, (str, bytes, Mapping)) or not isinstance(relevance, Sequence):
        kind = type(cast("object", relevance)).__name__
        raise TypeError(f"relevance is a {kind}: write a list with one (n,) tensor, or None, per image of the call.")
    found: list[Tensor | None] = []
    for each in cast("Sequence[object]", relevance):
        if each is not None and not (isinstance(each, Tensor) and each.ndim == 1 and each.is_floating_point()):
            shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise TypeError(f"relevance holds {shape}: write one floating-point (n,) tensor, or None, per image.")
        found.append(each.detach() if isinstance(each, Tensor) else None)
    return tuple(found)


def _numbers(protect: object, given: object) -> tuple[int, ...]:
    """The token numbers of one image, ascending."""
    plain = cast("object", cast("Any", given).tolist()) if isinstance(given, Tensor) else given
    if isinstance(plain, (str, bytes)) or not isinstance(plain, Iterable):
        raise TypeError(
            f"protect={protect!r} does not say which image {given!r} belongs to: write one list per image of the "
            "call, for a single image [[0, 5]]."
        )
    numbers: set[int] = set()
    for number in cast("Iterable[object]", plain):
        if isinstance(number, bool) or not isinstance(number, SupportsIndex):
            raise TypeError(
                f"protect holds {number!r}, which is no token number: write ints, of a mask its mask.nonzero()[:, 0]."
            )
        if operator.index(number) < 0:
            raise ValueError(f"protect holds {number}: an image's visual tokens are counted from 0.")
        numbers.add(operator.index(number))
    return tuple(sorted(numbers))
