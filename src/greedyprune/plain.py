"""Methods, budgets, stages and policies as plain dicts and back, for command lines, servers, and other processes.

The dict of a value has its registered name under "type", and its fields. Numbers, strings and lists stay as they are:
`{"type": "greedyprune", "tau": {"type": "quantile", "q": 0.8}, "fallback": "saliency", ...}`.

Your own method has no registered name: its type is "package.module:Class". Reading such a dict imports that module, so
accept dicts with a ":" in a type only from people who may run code here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, cast

from greedyprune.method import Method
from greedyprune.registry import METHODS, REGISTERED, VALUES, home_of, load, method_homes, renamed, unknown
from greedyprune.shown import shown

_NUMBER = "number"
"""The type of the numbers that JSON lacks: infinity and NaN."""
_NUMBERS = ("inf", "-inf", "nan")
_WRITTEN: dict[str, tuple[type | tuple[type, ...], str]] = {
    "bool": (int, "true or false"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "str": (str, "a text"),
    "tuple": (tuple, "a list"),
}
"""For each kind of field its Python types, and what a person writes."""


def to_plain(value: Any) -> Any:
    """Write a method, budget, stage, policy or option as a value that JSON can hold.

        to_plain(Ratio(0.25))       # {"type": "ratio", "share": 0.25}

    Raises TypeError if a value has no plain form, or if your own method cannot be imported by its name.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {"type": _NUMBER, "value": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):  # JSON has no integer keys
        return [[key, to_plain(item)] for key, item in cast("Mapping[Any, Any]", value).items()]
    if isinstance(value, Sequence):
        return [to_plain(item) for item in cast("Sequence[Any]", value)]
    if is_dataclass(value) and not isinstance(value, type):
        name = _name_of(type(value))
        if callable(own := getattr(value, "to_dict", None)):
            return own()
        return {"type": name, **{f.name: _option(f, getattr(value, f.name)) for f in fields(value)}}
    raise TypeError(f"{shown(value)} cannot be written as a plain dict.")


def from_plain(plain: Any, *, own: bool = True) -> Any:
    """Read the value that `to_plain` wrote. A missing field gets its default.

        from_plain({"type": "ratio", "share": 0.25})      # Ratio(0.25)
        from_plain({"type": "bright.methods:Brightest"})  # your own method

    `own`: True imports the modules that "package.module:Class" names; False refuses such names, so a stranger's dict
    imports nothing but this package and the methods that installed packages add. Raises ValueError, with the name, if
    a type or a field is unknown, if a field is missing, or if a class cannot be imported or is refused; TypeError if a
    value is of another kind than its field.
    """
    if isinstance(plain, Mapping):
        whole, given = cast("object", plain), dict(cast("Mapping[str, Any]", plain))
        name = given.pop("type", None)
        if not isinstance(name, str):
            known = ", ".join((*METHODS, *VALUES))
            raise ValueError(f'{shown(whole)} names no type: write {{"type": NAME, ...}}, NAME one of {known}.')
        if name == _NUMBER:
            if given not in [{"value": text} for text in _NUMBERS]:
                raise ValueError(
                    f'{shown(whole)}: write a number as it is, or one of {", ".join(_NUMBERS)} under "value".'
                )
            return float(given["value"])
        cls = class_of(name, own=own)
        if callable(read := getattr(cls, "from_dict", None)):
            return read(given, own=own) if name in VALUES else read(given)
        known = {field.name for field in fields(cls)}
        for key in given:
            if key not in known:
                raise unknown(f"option of {name!r}", key, known)
        options = {key: _frozen(from_plain(value, own=own)) for key, value in given.items()}
        for field in fields(cls):
            if field.name in options:
                options[field.name] = _read(name, field, options[field.name])
            elif field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{shown(whole)} has no {shown(field.name)}: write what a {shown(name)} needs.")
        return cls(**options)
    if isinstance(plain, list):
        return [from_plain(item, own=own) for item in cast("list[Any]", plain)]
    return plain


def class_of(name: str, *, own: bool = True) -> Any:
    """Find the class of a type: a registered name, or package.module:Class of your own method, if `own` allows it."""
    if ":" in name:
        if not own:
            raise ValueError(
                f"{shown(name)} would import a module, and own=False reads registered names alone: write the name of a "
                "method, or pass own=True if the sender may run code here."
            )
        return _method_at(name)
    if name in REGISTERED:
        return REGISTERED[name]
    homes = {**METHODS, **VALUES}
    if name not in homes:
        homes = {**method_homes(), **VALUES}
        name = renamed(name, homes)
    if name not in homes:
        raise unknown("type", name, homes)
    return load(homes[name]) if name in VALUES else _method_at(homes[name])


def _method_at(home: str) -> type[Method]:
    """Import a method's class. Raises ValueError if there is none at this "package.module:Class"."""
    cls = load(home)
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise ValueError(f"{shown(home)} is no method: name a class that derives from greedyprune.Method.")
    return cls


def _option(field: Field[Any], value: Any) -> Any:
    """A field's value for JSON. Equal values get one form: 1 is written as true in a field of bools."""
    kind = str(getattr(field.type, "__name__", field.type))
    if kind == "bool" and isinstance(value, int):
        return bool(value)
    return int(value) if isinstance(value, bool) and "bool" not in kind else to_plain(value)


def _read(name: str, field: Field[Any], value: Any) -> Any:
    """A field's value as its class wants it. Raises TypeError, which names it, for a value of another kind."""
    kind = str(getattr(field.type, "__name__", field.type))
    if value is None and kind.endswith("| None"):
        return value
    if kind.startswith("Mapping"):
        pairs = cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()
        if not pairs or any(
            not isinstance(pair, tuple) or len(cast("tuple[object, ...]", pair)) != 2 for pair in pairs
        ):
            raise TypeError(
                f"{field.name}={shown(cast('object', value))} of {shown(name)}: write a list of pairs, such as "
                "[[8, 64], [16, 32]]."
            )
        return dict(cast("Any", pairs))
    right, remedy = _WRITTEN.get(kind.partition("[")[0], (None, ""))
    wrong = right is not None and not isinstance(value, right)
    if wrong or (isinstance(value, bool) and kind in ("int", "float")) or (kind == "bool" and value not in (0, 1)):
        raise TypeError(f"{field.name}={shown(value)} of {shown(name)}: write {remedy}.")
    return value


def _frozen(value: Any) -> Any:
    """Turn lists into tuples, since the fields of frozen values hold tuples."""
    return tuple(_frozen(item) for item in cast("list[Any]", value)) if isinstance(value, list) else value


def _name_of(cls: type) -> str:
    """The type of a class in a plain dict. Raises TypeError if it has none."""
    home = home_of(cls)
    for name, known in {**METHODS, **VALUES}.items():
        if known == home:
            return name
    for name, mine in REGISTERED.items():
        if mine is cls:
            return name
    if not issubclass(cls, Method):
        raise TypeError(f"{cls.__name__} is not registered, so it has no name in a plain dict: add it to the registry.")
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__ or load(home) is not cls:
        raise TypeError(
            f"{home!r} is not what another process finds under that name, so {cls.__name__} has no name in a plain "
            "dict: define it at the top of a module that can be imported, or call gp.register first."
        )
    return home
