"""Naming: everything that a user may write for a method, and the method that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from greedyprune.cues import Need
from greedyprune.method import Method
from greedyprune.plain import from_plain
from greedyprune.registry import METHODS, load, unknown
from greedyprune.stages import Stage


def method_class(name: str) -> type[Method]:
    """The class registered under a name."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return load(METHODS[name])


def as_method(method: Method | type[Method] | str | Mapping[str, Any]) -> Method:
    """A method as a user gives it: an instance, a class (with its defaults), a registered name, or a plain dict."""
    if isinstance(method, str):
        return method_class(method)()
    found = from_plain(method) if isinstance(method, Mapping) else method
    if isinstance(found, type) and issubclass(found, Method):
        _check_class(found)
        found = found()
    if isinstance(found, Method):
        _check_class(type(found))
        _check_needs(found)
        return found
    raise TypeError(f"{method!r} is no method: pass an instance such as GreedyPrune(), or one of {sorted(METHODS)}.")


def _check_class(cls: type[Method]) -> None:
    """Raise unless a method's class can select and names stages: a mistake is told before anything runs."""
    if cls.select is Method.select:
        raise TypeError(
            f"{cls.__name__} has no select(): write def select(self, cues, k), which returns "
            "Keep.from_order(order, gains, cues.n)."
        )
    stages = cast("tuple[object, ...]", cls.stages) if isinstance(cls.stages, tuple) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
    if not stages or not all(isinstance(each, type) and issubclass(each, Stage) for each in stages):
        raise TypeError(f"{cls.__name__}.stages is {cls.stages!r}: list classes of stages, such as (Input, Layer).")


def _check_needs(method: Method) -> None:
    """Raise unless what a method needs is told as needs."""
    name, needs = type(method).__name__, cast("object", method.needs)
    if not isinstance(needs, (tuple, list)):
        raise TypeError(f"{name}.needs is {needs!r}: write a tuple of needs, such as (Text(), Attention('cls')).")
    for need in cast("tuple[object, ...]", needs):
        if not isinstance(need, Need):
            raise TypeError(f"{name}.needs holds {need!r}: write a need, such as Text(), Grid() or Attention('cls').")
