"""The registry: name -> "module:Class". A class is imported at first use; a wrong name gets a suggestion.

Another package adds methods by entry points of the group `greedyprune.methods`, in its pyproject.toml:

    [project.entry-points."greedyprune.methods"]
    brightest = "bright.methods:Brightest"

A program adds its own with `gp.register(Brightest)`, for as long as it runs.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

from greedyprune.shown import LONGEST, short, shown

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

GROUP = "greedyprune.methods"
"""The group of the entry points that add methods."""

METHODS: dict[str, str] = {
    "greedyprune": "greedyprune.methods.greedyprune:GreedyPrune",
    "divprune": "greedyprune.methods.divprune:DivPrune",
    "cls": "greedyprune.methods.cls_topk:ClsTopK",
    "fastv": "greedyprune.methods.fastv:FastV",
    "visionzip": "greedyprune.methods.visionzip:VisionZip",
    "vispruner": "greedyprune.methods.vispruner:VisPruner",
    "vscan": "greedyprune.methods.vscan:VScan",
    "prumerge": "greedyprune.methods.prumerge:PruMerge",
    "prumerge_plus": "greedyprune.methods.prumerge:PruMergePlus",
    "sparsevlm": "greedyprune.methods.sparsevlm:SparseVLM",
    "sparsevlm_recycle": "greedyprune.methods.sparsevlm:SparseVLMRecycle",
    "pyramiddrop": "greedyprune.methods.pyramiddrop:PyramidDrop",
    "v2drop": "greedyprune.methods.v2drop:V2Drop",
    "tome": "greedyprune.methods.tome:ToMe",
    "dart": "greedyprune.methods.dart:DART",
    "hired": "greedyprune.methods.hired:HiRED",
    "hiprune": "greedyprune.methods.hiprune:HiPrune",
    "gprune": "greedyprune.methods.gprune:GPrune",
    "holov": "greedyprune.methods.holov:HoloV",
    "prunesid": "greedyprune.methods.prunesid:PruneSID",
    "agileprune": "greedyprune.methods.agileprune:AgilePruner",
    "evs": "greedyprune.methods.evs:EVS",
    "vidcom2": "greedyprune.methods.vidcom2:VidCom2",
    "dycoke": "greedyprune.methods.dycoke:DyCoke",
    "fastvid": "greedyprune.methods.fastvid:FastVID",
    "flashvid": "greedyprune.methods.flashvid:FlashVID",
    "holitom": "greedyprune.methods.holitom:HoliTom",
    "dytok": "greedyprune.methods.dytok:DyToK",
    "cdpruner": "greedyprune.methods.cdpruner:CDPruner",
    "mmr": "greedyprune.methods.mmr:MMR",
    "soft_greedyprune": "greedyprune.methods.soft_greedyprune:SoftGreedyPrune",
    "score": "greedyprune.methods.score:SCoRe",
    "idselection": "greedyprune.methods.idselection:IDSelection",
    "zspaprune": "greedyprune.methods.zspaprune:ZSPAPrune",
    "todre": "greedyprune.methods.todre:ToDRE",
    "pact": "greedyprune.methods.pact:PACT",
    "otprune": "greedyprune.methods.otprune:OTPrune",
    "apet": "greedyprune.methods.apet:ApET",
    "vlm_pruner": "greedyprune.methods.vlm_pruner:VLMPruner",
    "d2pruner": "greedyprune.methods.d2pruner:D2Pruner",
    "adaptprune": "greedyprune.methods.adaptprune:AdaptPrune",
    "scope": "greedyprune.methods.scope:SCOPE",
    "facility": "greedyprune.methods.facility:FacilityLocation",
    "mmtok": "greedyprune.methods.mmtok:MMTok",
    "saliency": "greedyprune.methods.saliency:Saliency",
    "random": "greedyprune.methods.random:Random",
    "grid": "greedyprune.methods.grid:UniformGrid",
    "pool": "greedyprune.methods.pool:AveragePool",
}

DEFAULT = "soft_greedyprune"
"""The method that runs if none is named. docs/findings.md says why."""

VALUES: dict[str, str] = {
    "ratio": "greedyprune.budget:Ratio",
    "per_layer": "greedyprune.budget:PerLayer",
    "per_frame": "greedyprune.budget:PerFrame",
    "layer_average": "greedyprune.budget:LayerAverage",
    "total": "greedyprune.budget:Total",
    "input": "greedyprune.stages:Input",
    "layer": "greedyprune.stages:Layer",
    "layers": "greedyprune.stages:Layers",
    "depths": "greedyprune.stages:Depths",
    "quantile": "greedyprune.ops.threshold:Quantile",
    "mean_scaled": "greedyprune.ops.threshold:MeanScaled",
    "exact": "greedyprune.ops.threshold:Exact",
    "position_bias": "greedyprune.ops.places:PositionBias",
    "policy": "greedyprune.policy:Policy",
}
"""Values that a method's fields and a budget may hold, besides numbers and strings, by their name in a plain dict."""


RENAMED: dict[str, str] = {
    "Features": "Encoded",
}
"""Old public names and their new names: of `gp`, of methods, and of plain dicts.

An old name works like the new one, and warns.
"""


REGISTERED: dict[str, type[Any]] = {}
"""The methods that this program added with `gp.register`, by name."""


def renamed(name: str, known: Container[str]) -> str:
    """The new name of a renamed one, with a DeprecationWarning, if the new one is known; else the name itself."""
    new = RENAMED.get(name)
    if new is None or new not in known:
        return name
    warnings.warn(f"{name!r} is now called {new!r}: write the new name.", DeprecationWarning, stacklevel=3)
    return new


@cache
def added_methods() -> dict[str, str]:
    """The methods that installed packages add: name -> "module:Class". They are looked up once, and none is imported.

    greedyprune keeps its own names, and the first of two packages with the same name keeps it. Both cases warn.
    """
    found: dict[str, str] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        taken = METHODS.get(entry.name) or found.get(entry.name)
        if taken not in (None, entry.value):
            warnings.warn(
                f"the entry point {entry.name} = {entry.value!r} of {GROUP} is left out, since {entry.name!r} is "
                f"{taken!r} already: rename the entry point, or name the method as {entry.value!r}.",
                UserWarning,
                stacklevel=2,
            )
            continue
        found.setdefault(entry.name, entry.value)
    return found


def method_homes() -> dict[str, str]:
    """Every named method, of this package, of others and of this program: name -> "module:Class". None is imported."""
    return {**{name: home_of(cls) for name, cls in REGISTERED.items()}, **added_methods(), **METHODS}


def home_of(cls: type[Any]) -> str:
    """The "module:Class" of a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for an unknown name. It suggests a close name and lists the known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(name[:LONGEST], known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ValueError(f"there is no {kind} {shown(name)}: {hint}Known: {', '.join(known)}.")


def load(home: str) -> Any:
    """Import the object of "module:Class". Raises ValueError with this name if that fails for any reason."""
    module, _, name = home.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        why = short(f"{type(error).__name__}: {error}")
        raise ValueError(
            f"{shown(home)} cannot be loaded ({why}): write package.module:Class, and install the package where this "
            "runs."
        ) from error
    return found
