"""Methods, budgets and stages as plain dicts and back, for command lines, servers, and other processes.

A value is a dict with its registered name under "type" and its fields beside it; numbers, strings and lists stay as
they are: `{"type": "greedyprune", "tau": {"type": "quantile", "q": 0.8}, "fallback": "saliency", ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

from greedyprune.registry import METHODS, VALUES, load, unknown


def to_plain(value: Any) -> Any:
    """A method, budget, stage or option as what JSON can hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):  # JSON has no integer keys
        return [[key, to_plain(item)] for key, item in cast("Mapping[Any, Any]", value).items()]
    if isinstance(value, Sequence):
        return [to_plain(item) for item in cast("Sequence[Any]", value)]
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": _name_of(type(value)), **{f.name: to_plain(getattr(value, f.name)) for f in fields(value)}}
    raise TypeError(f"{value!r} cannot be written as a plain dict.")


def from_plain(plain: Any) -> Any:
    """The value that `to_plain` wrote. A field that is left out has its default."""
    if isinstance(plain, Mapping):
        given = dict(cast("Mapping[str, Any]", plain))
        name = given.pop("type", None)
        homes = {**METHODS, **VALUES}
        if not isinstance(name, str):
            raise ValueError(f'{plain!r} names no type: write {{"type": NAME, ...}}, NAME one of {", ".join(homes)}.')
        if name not in homes:
            raise unknown("type", name, homes)
        cls = load(homes[name])
        known = {field.name for field in fields(cls)}
        for key in given:
            if key not in known:
                raise unknown(f"option of {name!r}", key, known)
        options = {key: from_plain(value) for key, value in given.items()}
        if name == "per_layer":
            options["schedule"] = dict(options["schedule"])
        return cls(**options)
    if isinstance(plain, list):
        return [from_plain(item) for item in cast("list[Any]", plain)]
    return plain


def _name_of(cls: type) -> str:
    home = f"{cls.__module__}:{cls.__qualname__}"
    for name, known in {**METHODS, **VALUES}.items():
        if known == home:
            return name
    raise TypeError(f"{cls.__name__} is not registered, so it has no name in a plain dict: add it to the registry.")
