"""The registry: name -> "module:Class", resolved only when asked for, with a suggestion for a name that is off."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

METHODS: dict[str, str] = {
    "greedyprune": "greedyprune.methods.greedyprune:GreedyPrune",
    "divprune": "greedyprune.methods.divprune:DivPrune",
    "cls": "greedyprune.methods.cls_topk:ClsTopK",
    "fastv": "greedyprune.methods.fastv:FastV",
    "visionzip": "greedyprune.methods.visionzip:VisionZip",
    "vispruner": "greedyprune.methods.vispruner:VisPruner",
    "prumerge": "greedyprune.methods.prumerge:PruMerge",
    "prumerge_plus": "greedyprune.methods.prumerge:PruMergePlus",
    "sparsevlm": "greedyprune.methods.sparsevlm:SparseVLM",
    "sparsevlm_recycle": "greedyprune.methods.sparsevlm:SparseVLMRecycle",
    "pyramiddrop": "greedyprune.methods.pyramiddrop:PyramidDrop",
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
    "cdpruner": "greedyprune.methods.cdpruner:CDPruner",
    "mmr": "greedyprune.methods.mmr:MMR",
    "zspaprune": "greedyprune.methods.zspaprune:ZSPAPrune",
    "todre": "greedyprune.methods.todre:ToDRE",
    "adaptprune": "greedyprune.methods.adaptprune:AdaptPrune",
    "scope": "greedyprune.methods.scope:SCOPE",
    "facility": "greedyprune.methods.facility:FacilityLocation",
    "mmtok": "greedyprune.methods.mmtok:MMTok",
    "saliency": "greedyprune.methods.saliency:Saliency",
    "random": "greedyprune.methods.random:Random",
    "grid": "greedyprune.methods.grid:UniformGrid",
    "pool": "greedyprune.methods.pool:AveragePool",
}

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
}
"""What a method's fields and a budget may hold besides numbers and strings, by the name they have in a plain dict."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name nobody registered: what, which, what to do."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ValueError(f"there is no {kind} {name!r}: {hint}Known: {', '.join(known)}.")


def load(home: str) -> Any:
    """What "module:Class" names."""
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)
