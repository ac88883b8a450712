"""greedyprune: training-free visual token pruning for vision-language models on stock transformers.

    import greedyprune as gp
    with gp.prune(model, gp.GreedyPrune(), keep=64) as pruned:
        out = model.generate(**inputs)
    print(pruned.report())

Importing this package imports nothing heavy, not even torch. Each name is loaded at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greedyprune import plots as plots
    from greedyprune import testbed as testbed
    from greedyprune import testing as testing
    from greedyprune.attach.handle import Pruned as Pruned
    from greedyprune.attach.handle import prune as prune
    from greedyprune.attach.handle import remove as remove
    from greedyprune.attach.request import Request as Request
    from greedyprune.budget import DETAIL as DETAIL
    from greedyprune.budget import LayerAverage as LayerAverage
    from greedyprune.budget import PerFrame as PerFrame
    from greedyprune.budget import PerLayer as PerLayer
    from greedyprune.budget import Ratio as Ratio
    from greedyprune.budget import Total as Total
    from greedyprune.budget import count as count
    from greedyprune.budget import keep_of_detail as keep_of_detail
    from greedyprune.choosing import kept_count as kept_count
    from greedyprune.choosing import select as select
    from greedyprune.choosing import select_batch as select_batch
    from greedyprune.cues import Attention as Attention
    from greedyprune.cues import Change as Change
    from greedyprune.cues import Cues as Cues
    from greedyprune.cues import Encoded as Encoded
    from greedyprune.cues import Grid as Grid
    from greedyprune.cues import Keys as Keys
    from greedyprune.cues import Need as Need
    from greedyprune.cues import Text as Text
    from greedyprune.cues import Values as Values
    from greedyprune.eval.calibrate import calibrate as calibrate
    from greedyprune.hints import Hints as Hints
    from greedyprune.keep import Certificate as Certificate
    from greedyprune.keep import Keep as Keep
    from greedyprune.keep import SoftCertificate as SoftCertificate
    from greedyprune.method import Method as Method
    from greedyprune.methods.adaptprune import AdaptPrune as AdaptPrune
    from greedyprune.methods.agileprune import AgilePruner as AgilePruner
    from greedyprune.methods.apet import ApET as ApET
    from greedyprune.methods.cdpruner import CDPruner as CDPruner
    from greedyprune.methods.cls_topk import ClsTopK as ClsTopK
    from greedyprune.methods.d2pruner import D2Pruner as D2Pruner
    from greedyprune.methods.dart import DART as DART
    from greedyprune.methods.divprune import DivPrune as DivPrune
    from greedyprune.methods.dycoke import DyCoke as DyCoke
    from greedyprune.methods.dytok import DyToK as DyToK
    from greedyprune.methods.evs import EVS as EVS
    from greedyprune.methods.facility import FacilityLocation as FacilityLocation
    from greedyprune.methods.fastv import FastV as FastV
    from greedyprune.methods.fastvid import FastVID as FastVID
    from greedyprune.methods.flashvid import FlashVID as FlashVID
    from greedyprune.methods.gprune import GPrune as GPrune
    from greedyprune.methods.greedyprune import GreedyPrune as GreedyPrune
    from greedyprune.methods.grid import UniformGrid as UniformGrid
    from greedyprune.methods.hiprune import HiPrune as HiPrune
    from greedyprune.methods.hired import HiRED as HiRED
    from greedyprune.methods.holitom import HoliTom as HoliTom
    from greedyprune.methods.holov import HoloV as HoloV
    from greedyprune.methods.idselection import IDSelection as IDSelection
    from greedyprune.methods.mmr import MMR as MMR
    from greedyprune.methods.mmtok import MMTok as MMTok
    from greedyprune.methods.otprune import OTPrune as OTPrune
    from greedyprune.methods.pact import PACT as PACT
    from greedyprune.methods.pool import AveragePool as AveragePool
    from greedyprune.methods.prumerge import PruMerge as PruMerge
    from greedyprune.methods.prumerge import PruMergePlus as PruMergePlus
    from greedyprune.methods.prunesid import PruneSID as PruneSID
    from greedyprune.methods.pyramiddrop import PyramidDrop as PyramidDrop
    from greedyprune.methods.random import Random as Random
    from greedyprune.methods.saliency import Saliency as Saliency
    from greedyprune.methods.scope import SCOPE as SCOPE
    from greedyprune.methods.score import SCoRe as SCoRe
    from greedyprune.methods.soft_greedyprune import SoftGreedyPrune as SoftGreedyPrune
    from greedyprune.methods.sparsevlm import SparseVLM as SparseVLM
    from greedyprune.methods.sparsevlm import SparseVLMRecycle as SparseVLMRecycle
    from greedyprune.methods.todre import ToDRE as ToDRE
    from greedyprune.methods.tome import ToMe as ToMe
    from greedyprune.methods.v2drop import V2Drop as V2Drop
    from greedyprune.methods.vidcom2 import VidCom2 as VidCom2
    from greedyprune.methods.visionzip import VisionZip as VisionZip
    from greedyprune.methods.vispruner import VisPruner as VisPruner
    from greedyprune.methods.vlm_pruner import VLMPruner as VLMPruner
    from greedyprune.methods.vscan import VScan as VScan
    from greedyprune.methods.zspaprune import ZSPAPrune as ZSPAPrune
    from greedyprune.models.coordinates import coordinate_tokens as coordinate_tokens
    from greedyprune.models.locate import images as images
    from greedyprune.naming import parse_keep as parse_keep
    from greedyprune.naming import register as register
    from greedyprune.ops.grid import grid_positions as grid_positions
    from greedyprune.ops.places import PositionBias as PositionBias
    from greedyprune.ops.threshold import Exact as Exact
    from greedyprune.ops.threshold import MeanScaled as MeanScaled
    from greedyprune.ops.threshold import Quantile as Quantile
    from greedyprune.plain import from_plain as from_plain
    from greedyprune.plain import to_plain as to_plain
    from greedyprune.policy import Policy as Policy
    from greedyprune.preprocessing.transforms import downscale as downscale
    from greedyprune.preset import Preset as Preset
    from greedyprune.preset import load_preset as load_preset
    from greedyprune.questions import question_rows as question_rows
    from greedyprune.selection import PruneWarning as PruneWarning
    from greedyprune.selection import Report as Report
    from greedyprune.selection import Selection as Selection
    from greedyprune.stages import Depths as Depths
    from greedyprune.stages import Input as Input
    from greedyprune.stages import Layer as Layer
    from greedyprune.stages import Layers as Layers
    from greedyprune.stages import Stage as Stage
    from greedyprune.tiles import Tiles as Tiles

__version__ = "0.1.0.dev0"

_HOMES = {
    "AdaptPrune": "methods.adaptprune",
    "AgilePruner": "methods.agileprune",
    "Attention": "cues",
    "AveragePool": "methods.pool",
    "ApET": "methods.apet",
    "OTPrune": "methods.otprune",
    "PACT": "methods.pact",
    "VLMPruner": "methods.vlm_pruner",
    "CDPruner": "methods.cdpruner",
    "Certificate": "keep",
    "Change": "cues",
    "ClsTopK": "methods.cls_topk",
    "Cues": "cues",
    "D2Pruner": "methods.d2pruner",
    "DART": "methods.dart",
    "DETAIL": "budget",
    "Depths": "stages",
    "DivPrune": "methods.divprune",
    "DyCoke": "methods.dycoke",
    "DyToK": "methods.dytok",
    "EVS": "methods.evs",
    "Encoded": "cues",
    "Exact": "ops.threshold",
    "FacilityLocation": "methods.facility",
    "FastV": "methods.fastv",
    "FastVID": "methods.fastvid",
    "FlashVID": "methods.flashvid",
    "GPrune": "methods.gprune",
    "GreedyPrune": "methods.greedyprune",
    "Grid": "cues",
    "HiPrune": "methods.hiprune",
    "HiRED": "methods.hired",
    "Hints": "hints",
    "HoliTom": "methods.holitom",
    "HoloV": "methods.holov",
    "IDSelection": "methods.idselection",
    "Input": "stages",
    "Keep": "keep",
    "Keys": "cues",
    "Layer": "stages",
    "LayerAverage": "budget",
    "Layers": "stages",
    "MMR": "methods.mmr",
    "MMTok": "methods.mmtok",
    "MeanScaled": "ops.threshold",
    "Method": "method",
    "Need": "cues",
    "PerFrame": "budget",
    "PerLayer": "budget",
    "Policy": "policy",
    "PositionBias": "ops.places",
    "Preset": "preset",
    "PruMerge": "methods.prumerge",
    "PruMergePlus": "methods.prumerge",
    "PruneSID": "methods.prunesid",
    "PruneWarning": "selection",
    "Pruned": "attach.handle",
    "PyramidDrop": "methods.pyramiddrop",
    "Quantile": "ops.threshold",
    "Random": "methods.random",
    "Ratio": "budget",
    "Report": "selection",
    "Request": "attach.request",
    "SCOPE": "methods.scope",
    "SCoRe": "methods.score",
    "Saliency": "methods.saliency",
    "Selection": "selection",
    "SoftCertificate": "keep",
    "SoftGreedyPrune": "methods.soft_greedyprune",
    "SparseVLM": "methods.sparsevlm",
    "SparseVLMRecycle": "methods.sparsevlm",
    "Stage": "stages",
    "Text": "cues",
    "Tiles": "tiles",
    "ToDRE": "methods.todre",
    "ToMe": "methods.tome",
    "Total": "budget",
    "UniformGrid": "methods.grid",
    "V2Drop": "methods.v2drop",
    "VScan": "methods.vscan",
    "Values": "cues",
    "VidCom2": "methods.vidcom2",
    "VisPruner": "methods.vispruner",
    "VisionZip": "methods.visionzip",
    "ZSPAPrune": "methods.zspaprune",
    "calibrate": "eval.calibrate",
    "coordinate_tokens": "models.coordinates",
    "count": "budget",
    "downscale": "preprocessing.transforms",
    "from_plain": "plain",
    "grid_positions": "ops.grid",
    "images": "models.locate",
    "keep_of_detail": "budget",
    "kept_count": "choosing",
    "load_preset": "preset",
    "parse_keep": "naming",
    "prune": "attach.handle",
    "question_rows": "questions",
    "register": "naming",
    "remove": "attach.handle",
    "select": "choosing",
    "select_batch": "choosing",
    "to_plain": "plain",
}
_MODULES = ("plots", "testbed", "testing")

__all__ = [*_HOMES, *_MODULES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        from greedyprune.registry import renamed

        if (new := renamed(name, _HOMES)) == name:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return __getattr__(new)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
