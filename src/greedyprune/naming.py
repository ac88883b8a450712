"""Naming: read every form in which a user may write a method or a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from greedyprune.budget import Budgets, as_budgets, parse_budgets
from greedyprune.cues import Need
from greedyprune.method import Method
from greedyprune.plain import class_of, from_plain
from greedyprune.registry import METHODS, load, method_homes, renamed, unknown
from greedyprune.shown import shown
from greedyprune.stages import Stage


def method_class(name: str, *, own: bool = True) -> type[Method]:
    """Find a method's class by its registered name, by an entry point's name, or by "package.module:Class".

    `own`: False refuses "package.module:Class", as in `from_plain`. Raises ValueError with the name if there is no such
    method, or if it cannot be imported.
    """
    if name in METHODS:
        return load(METHODS[name])
    if ":" in name:
        return class_of(name, own=own)
    homes = method_homes()
    name = renamed(name, homes)
    if name not in homes:
        raise unknown("method", name, homes)
    return class_of(name)


def as_method(method: Method | type[Method] | str | Mapping[str, Any], *, own: bool = True) -> Method:
    """Read a user's method: an instance, a class (with its defaults), a name, or a plain dict.

    A name is a registered one, such as "divprune", or "package.module:Class" of your own method. The "type" of a plain
    dict is such a name too. `own`: False refuses "package.module:Class", as in `from_plain`.
    """
    if isinstance(method, str):
        return method_class(method, own=own)()
    found = from_plain(method, own=own) if isinstance(method, Mapping) else method
    if isinstance(found, type) and issubclass(found, Method):
        _check_class(found)
        found = found()
    if isinstance(found, Method):
        _check_class(type(found))
        _check_needs(found)
        return found
    raise TypeError(
        f"{shown(method)} is no method: pass an instance such as GreedyPrune(), or one of {sorted(METHODS)}."
    )


def parse_keep(keep: object, *, own: bool = True) -> Budgets:
    """Read a budget in any of its forms: text, a plain dict, or the value itself.

        parse_keep("25%"), parse_keep("1/4"), parse_keep("64"), parse_keep("8/frame"), parse_keep("total:64:8")
        parse_keep("64 per layer"), parse_keep("layer:8 50%, layer:16 25%")
        parse_keep({"type": "ratio", "share": 0.25}), parse_keep(["25%", 64])

    A list holds one budget per image. `own`: as in `from_plain`. Raises TypeError or ValueError if this is no budget.
    """
    if isinstance(keep, str):
        return parse_budgets(keep)
    if isinstance(keep, Mapping):
        return as_budgets(from_plain(keep, own=own))
    if isinstance(keep, Sequence) and not isinstance(keep, (bytes, bytearray)):
        return as_budgets([parse_keep(each, own=own) for each in cast("Sequence[object]", keep)])
    return as_budgets(keep)


def _check_class(cls: type[Method]) -> None:
    """Raise TypeError unless a method's class has `select` and names stages, before anything runs."""
    if cls.select is Method.select:
        raise TypeError(
            f"{cls.__name__} has no select(): write def select(self, cues, k), which returns "
            "Keep.from_order(order, gains, cues.n)."
        )
    stages = cast("tuple[object, ...]", cls.stages) if isinstance(cls.stages, tuple) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
    if not stages or not all(isinstance(each, type) and issubclass(each, Stage) for each in stages):
        raise TypeError(f"{cls.__name__}.stages is {cls.stages!r}: list classes of stages, such as (Input, Layer).")


def _check_needs(method: Method) -> None:
    """Raise TypeError unless a method's `needs` is a tuple or list of `Need` values."""
    name, needs = type(method).__name__, cast("object", method.needs)
    if not isinstance(needs, (tuple, list)):
        raise TypeError(f"{name}.needs is {needs!r}: write a tuple of needs, such as (Text(), Attention('cls')).")
    for need in cast("tuple[object, ...]", needs):
        if not isinstance(need, Need):
            raise TypeError(f"{name}.needs holds {need!r}: write a need, such as Text(), Grid() or Attention('cls').")
