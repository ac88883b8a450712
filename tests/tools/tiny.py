"""Tiny random models, one builder per family, and prompts for them: no network, no processor, milliseconds per call.

A builder returns a `Tiny`: the model with random weights, and how images become keyword arguments and placeholder
tokens. Adding a family is one builder in a module of `tinies` and its line in that module's `BUILDERS`; the proofs run
over all of them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from tinies import (
    fixed,
    glm,
    hybrid,
    multimodal_positions,
    native,
    newest,
    newlines,
    sounds,
    tiled,
    videos,
    windows,
)
from tinies.multimodal_positions import token_types as token_types
from tinies.words import AUDIO as AUDIO
from tinies.words import BEGIN as BEGIN
from tinies.words import END as END
from tinies.words import IMAGE as IMAGE
from tinies.words import SPECIAL as SPECIAL
from tinies.words import VIDEO as VIDEO
from tinies.words import Rows as Rows
from tinies.words import Tiny as Tiny
from tinies.words import decoder as decoder
from tinies.words import squares as squares
from tinies.words import tower as tower

MODULES = (
    fixed,
    multimodal_positions,
    tiled,
    newlines,
    native,
    windows,
    hybrid,
    glm,
    videos,
    newest,
    sounds,
)
BUILDERS = {name: make for module in MODULES for name, make in module.BUILDERS.items()}
"""One builder per model type of `greedyprune.models.table.FAMILIES`."""
VARIANTS = {name: make for module in MODULES for name, make in getattr(module, "VARIANTS", {}).items()}
"""Further models of these types: with videos, with short windows, with another decoder. The type is the first word."""
NAMES = [*BUILDERS, *VARIANTS]

built: dict[tuple[str, str], Any] = {}
"""The models made so far, by family and attention."""


def tiny(family: str, attention: str = "sdpa") -> Tiny:
    """The tiny model of a family, always with the same weights, shared by all tests."""
    return _tiny(family, attention)


@cache  # of both arguments, so that the usual attention is one model whether it is named or not
def _tiny(family: str, attention: str) -> Tiny:
    made = fresh(family, attention)
    built[family, attention] = made.model
    return made


def fresh(family: str, attention: str = "sdpa") -> Tiny:
    """The same, for one test alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for the weights that stay as the library draws them
        made = (BUILDERS | VARIANTS)[family]()
    model = made.model.eval()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if (
            weight.ndim >= 2
        ):  # wide enough that every token matters, so that a proof about dropped tokens says something
            weight.data = torch.randn(weight.shape, generator=generator) * (0.6 if "embed" in name else 0.25)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.set_attn_implementation(attention)
    return made
