"""The registry: name -> "module:Class", resolved only when asked for, with a suggestion for a name that is off."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greedyprune.method import Method

METHODS: dict[str, str] = {
    "greedyprune": "greedyprune.methods.greedyprune:GreedyPrune",
    "saliency": "greedyprune.methods.saliency:Saliency",
    "random": "greedyprune.methods.random:Random",
    "grid": "greedyprune.methods.grid:UniformGrid",
}


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name nobody registered: what, which, what to do."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ValueError(f"there is no {kind} {name!r}: {hint}Known: {', '.join(known)}.")


def method_class(name: str) -> type[Method]:
    """The class registered under a name."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    module, _, cls = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), cls)
