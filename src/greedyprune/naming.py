"""Naming: read every form in which a user may write a method, a budget or a whole wish; name a method of one's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, cast

from greedyprune.budget import Budgets, as_budgets, parse_budgets
from greedyprune.cues import Need
from greedyprune.method import Method
from greedyprune.plain import class_of, from_plain
from greedyprune.registry import (
    METHODS,
    REGISTERED,
    VALUES,
    added_methods,
    home_of,
    load,
    method_homes,
    renamed,
    unknown,
)
from greedyprune.shown import shown
from greedyprune.stages import Stage, as_stage

Own = TypeVar("Own", bound=type[Method])
TAKEN = (*VALUES, "all", "dense", "oracle", "downscale", "blind", "number", "preset")
"""Names that mean something else than a method, in a plain dict or in an evaluation."""
WISHES = ("method", "keep", "at", "positions", "restore")
"""What a wish may name: the arguments of `prune`."""


class WishError(ValueError, TypeError):
    """The error for one field of a wish, whether its value or its type is wrong. `field` is the name."""

    def __init__(self, field: str, reason: object) -> None:
        super().__init__(str(reason))
        self.field = field


def register(cls: Own, name: str | None = None) -> Own:
    """Give a method of your own a name, for as long as this program runs. -> the class

        @gp.register
        @dataclass(frozen=True, kw_only=True)
        class Brightest(gp.Method):
            power: float = 1.0

            def select(self, cues, k):
                gains = cues.features.norm(dim=1) ** self.power
                order = gains.argsort(descending=True)[:k]
                return gp.Keep.from_order(order, gains[order], cues.n)

        gp.prune(model, "brightest", keep=64)

    `name`: small letters, digits and underscores. The default is the name of the class in this form. The name works
    wherever a method has one: in `prune`, `select`, plain dicts, evaluations, and in `greedyprune --import FILE eval`.
    A class that is defined again, as in a notebook, takes the place of the old one. Raises TypeError if this is no
    method that can run, ValueError if the name is taken or cannot be one.
    """
    given: Any = cls
    if isinstance(given, Method):
        raise TypeError(f"{shown(given)} is an instance: register its class, gp.register({type(given).__name__}).")
    if not (isinstance(given, type) and issubclass(given, Method)):
        raise TypeError(
            f"{shown(cast('object', given))} is no method: register a class that derives from greedyprune.Method."
        )
    _check_class(given)
    _check_options(given)
    _check_needs(given())
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower() if name is None else name
    if not isinstance(cast("object", name), str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name):
        raise ValueError(
            f"name={shown(name)} cannot name a method: write small letters, digits and underscores, and a letter first."
        )
    before = REGISTERED.get(name)
    other = METHODS.get(name) or added_methods().get(name) or (home_of(before) if before is not None else None)
    if name in TAKEN or other not in (None, home_of(cls)):
        what = "another thing" if other is None else shown(other)
        raise ValueError(f"the name {name!r} means {what} already: give another one, gp.register(cls, name=...).")
    REGISTERED[name] = cls
    return cls


def method_class(name: str, *, own: bool = True) -> type[Method]:
    """Find a method's class by its registered name, by an entry point's name, or by "package.module:Class".

    `own`: False refuses "package.module:Class", as in `from_plain`. Raises ValueError with the name if there is no such
    method, or if it cannot be imported.
    """
    if name in METHODS:
        return load(METHODS[name])
    if name in REGISTERED:
        return REGISTERED[name]
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


def read_wish(given: Mapping[str, Any], what: str = "field of a wish", *, own: bool = True) -> dict[str, Any]:
    """Read a wish out of plain values: a method, a budget, a place, positions, restore, as far as they are given.

        {"keep": "25%", "at": "layer:2"}                        # {"keep": Ratio(0.25), "at": Layer(2)}
        {"method": {"type": "divprune"}, "at": None}            # {"method": DivPrune()}

    Each may have any form that `prune` takes, or be a plain dict; None counts as left out. `Policy` checks `positions`
    and `restore`. `what`: what a message calls the name of a field. `own`: as in `from_plain`. Raises ValueError, with
    the known ones, if a name is unknown; WishError, which says in which field, if a value cannot be read.
    """
    for name in given:
        if name not in WISHES:
            raise unknown(what, str(name), WISHES)
    found = {name: value for name, value in given.items() if value is not None}
    readers: dict[str, Callable[[Any], object]] = {
        "method": lambda method: as_method(method, own=own),
        "keep": lambda keep: parse_keep(keep, own=own),
        "at": lambda at: as_stage(from_plain(at, own=own)),
    }
    for name in found.keys() & readers.keys():
        try:
            found[name] = readers[name](found[name])
        except RecursionError:
            raise WishError(name, f"{name} is nested too deeply: methods, budgets and stages are flat.") from None
        except (ValueError, TypeError, NotImplementedError) as error:
            raise WishError(name, error) from error
    return found


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


def _check_options(cls: type[Method]) -> None:
    """Raise TypeError unless the options of a method's class are fields with defaults."""
    known = {field.name: field for field in fields(cls)} if is_dataclass(cls) else {}
    own = {
        name
        for name, kind in cast("Mapping[str, object]", vars(cls).get("__annotations__", {})).items()
        if "ClassVar" not in str(kind)
    }
    if lost := sorted(own - set(known)):
        raise TypeError(
            f"{cls.__name__} declares {', '.join(lost)}, which are no options yet: write "
            "@dataclass(frozen=True, kw_only=True) above the class."
        )
    for field in known.values():
        if field.init and field.default is MISSING and field.default_factory is MISSING:
            raise TypeError(
                f"{cls.__name__}.{field.name} has no default: give it one, since a name alone must make the method."
            )


def _check_needs(method: Method) -> None:
    """Raise TypeError unless a method's `needs` is a tuple or list of `Need` values."""
    name, needs = type(method).__name__, cast("object", method.needs)
    if not isinstance(needs, (tuple, list)):
        raise TypeError(f"{name}.needs is {needs!r}: write a tuple of needs, such as (Text(), Attention('cls')).")
    for need in cast("tuple[object, ...]", needs):
        if not isinstance(need, Need):
            raise TypeError(f"{name}.needs holds {need!r}: write a need, such as Text(), Grid() or Attention('cls').")
