"""Needs of methods beyond the hidden states: the layer of a model that gives them, and the reasons why none does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from greedyprune.cues import Attention, Change, Encoded, Keys, Seen, Values
from greedyprune.models.release import probe_seams
from greedyprune.models.table import READABLE, READABLE_TOWERS
from greedyprune.naming import as_method
from greedyprune.registry import METHODS

if TYPE_CHECKING:
    from greedyprune.cues import Need
    from greedyprune.method import Method
    from greedyprune.models.parts import Parts
    from greedyprune.policy import Policy

WORDS: dict[str, str] = {
    "tower": "the attention inside the vision tower",
    "cls": "the class token's attention",
    "received": "the attention inside the vision tower",
    "last_text": "the last prompt token's attention",
    "question": "the question's attention",
    "raters": "the text raters' attention",
}


def check_needs(parts: Parts, policy: Policy) -> None:
    """Raise ValueError if this model cannot give the method its needs at this place. It names methods that can run."""
    for need in policy.method.needs:
        problem = _lacking(parts, need, policy.starts)
        if problem:
            able = [name for name in METHODS if _can_run(parts, as_method(name), policy)]
            others = f" Methods that can: {', '.join(able)}." if able else ""
            raise ValueError(f"{type(policy.method).__name__} cannot run at {policy.place!r} here: {problem}.{others}")


def in_tower(policy: Policy) -> list[Seen]:
    """The method's needs that are read in the vision tower."""
    return [need for need in policy.method.needs if isinstance(need, Seen) and need.in_tower]


def in_decoder(policy: Policy) -> list[Seen]:
    """The method's needs that are read in a decoder layer."""
    return [need for need in policy.method.needs if isinstance(need, Seen) and not need.in_tower]


def told(need: Seen) -> str:
    """Say a need in words, for messages."""
    if isinstance(need, Attention):
        return WORDS[need.kind]
    if isinstance(need, Encoded):
        return "the vision tower's rows"
    if isinstance(need, Values):
        return "a token's value"
    if isinstance(need, Change):
        return "what a layer adds to a token's state"
    return "the vision tower's keys" if need.where == "tower" else "a token's key"


def placed(parts: Parts, need: Seen) -> Seen:
    """Return a need of the vision tower with the number of its layer. It is None for the tower's final output."""
    if isinstance(need, Attention) and need.kind == "tower":
        need = replace(need, kind="cls" if parts.class_token else "received")
    return replace(need, layer=_tower_layer(parts, need)[0])


def _can_run(parts: Parts, method: Method, policy: Policy) -> bool:
    able = not any(_lacking(parts, need, policy.starts) for need in method.needs)
    return able and isinstance(policy.at, method.stages)


def _lacking(parts: Parts, need: Need, starts: list[int]) -> str | None:
    """The reason why this model cannot give the need for cuts before these decoder layers; None if it can."""
    if not isinstance(need, Seen):
        return None
    if isinstance(need, Attention) and need.kind not in WORDS:
        return f"{need!r} names a kind of attention that is not known, only {', '.join(WORDS)}"
    return _lacking_in_tower(parts, need) if need.in_tower else _lacking_in_decoder(parts, need, starts)


def _lacking_in_decoder(parts: Parts, need: Seen, starts: list[int]) -> str | None:
    first = min(starts, default=0)
    if first < 1:
        return f"{told(need)} comes from a decoder layer before the cut, so use at=Layer(1) or later"
    if isinstance(need.layer, float):
        return f"{need!r} names a share of the depth, which is for vision towers: name a decoder layer by its number"
    if need.layer is not None and not 0 <= need.layer < first:
        return f"decoder layer {need.layer} does not run before the cut, layers 0 to {first - 1} do"
    if isinstance(need, Change):
        return None  # every decoder's layers show their states
    if parts.decoder_type not in READABLE:
        known = ", ".join(READABLE)
        return f"attention weights of a {parts.decoder_type!r} decoder are not known here, only of {known}"
    lacking = [str(seam) for seam in probe_seams(parts) if not seam.there]
    return f"this release of transformers lacks {', '.join(lacking)}" if lacking else None


def _lacking_in_tower(parts: Parts, need: Seen) -> str | None:
    whose = f"the vision tower of this {parts.family.model_type!r} model"
    if isinstance(need, Attention) and need.kind == "cls" and not parts.class_token:
        return f"{whose} has no class token that attends to patches"
    if parts.tower is None or not parts.tower_layers:
        return f"{whose} is of type {parts.tower_type!r}, which is not known here, only {', '.join(READABLE_TOWERS)}"
    if isinstance(need, Keys) and need.of == "text":
        return f"{whose} reads no text, so use Keys('decoder', of='text')"
    return _tower_layer(parts, need)[1]


def _tower_layer(parts: Parts, need: Seen) -> tuple[int | None, str | None]:
    """Return the layer of the vision tower that the need names, or the reason why there is none."""
    count, layer = len(parts.tower_layers), need.layer
    if layer is None:
        # Entry i of a tower's hidden states is the input of layer i, so layer i - 1 made it; -1 is the last output.
        feature = getattr(parts.config, "vision_feature_layer", -1)
        if not isinstance(feature, int) or feature == 0:
            one = replace(need, layer=-2)
            return None, f"the projector reads vision_feature_layer={feature!r}, so name one: {one!r}"
        if isinstance(need, Encoded) and feature == -1 and parts.family.tower and parts.family.tower.normed:
            return None, None
        layer = feature - 1 if feature > 0 else feature
    if isinstance(layer, float):
        if not 0 <= layer < 1:
            return None, f"layer={layer!r} is no share of the vision tower's depth: write one from 0 to below 1"
        layer = math.floor(layer * count)
    if not -count <= layer < count:
        return None, f"the vision tower has {count} layers and no layer {layer}"
    return layer % count, None
