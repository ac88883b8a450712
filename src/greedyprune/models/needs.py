"""Needs of methods beyond the hidden states: the layer of a model that gives them, and the reasons why none does."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from greedyprune.budget import PerLayer, Ratio
from greedyprune.cues import Attention, Change, Keys, Seen
from greedyprune.models.layers import WORDS, told, tower_layer
from greedyprune.models.readable import PAGE_READERS, READABLE, READABLE_TOWERS
from greedyprune.models.release import probe_seams
from greedyprune.naming import as_method
from greedyprune.registry import METHODS
from greedyprune.selection import PruneWarning

if TYPE_CHECKING:
    from greedyprune.cues import Need
    from greedyprune.method import Method
    from greedyprune.models.parts import Parts
    from greedyprune.policy import Policy

ADDITIVE = ("sdpa", "eager")
"""The attention implementations that add a mask to the scores."""


PAGE_SHARE = 0.8
"""The least share of visual tokens that a model for pages of text should keep."""


def check_needs(parts: Parts, policy: Policy) -> None:
    """Raise ValueError if this model cannot give the method its needs at this place. It names methods that can run."""
    for need in policy.method.needs:
        problem = _lacking(parts, need, policy.starts)
        if problem:
            able = [name for name in METHODS if _can_run(parts, as_method(name), policy)]
            others = f" Methods that can: {', '.join(able)}." if able else ""
            raise ValueError(f"{type(policy.method).__name__} cannot run at {policy.place!r} here: {problem}.{others}")


def check_restore(parts: Parts, policy: Policy) -> None:
    """Raise if nothing can be added to this model's attention scores, as the policy's `restore` asks.

    Its attention implementation may change at any time, so every prompt asks again.
    """
    if policy.restore == "none":
        return
    if parts.attention not in ADDITIVE:
        raise ValueError(
            f"restore={policy.restore!r} adds to attention scores, and the kernel of attention {parts.attention!r} "
            "takes no such mask: call model.set_attn_implementation('sdpa') before pruning, or leave out restore."
        )
    if policy.restore != "size" and getattr(parts.text, "rotary_emb", None) is None:
        raise NotImplementedError(
            f"restore={policy.restore!r} reads the rotary embedding, and this {parts.decoder_type!r} decoder has no "
            'rotary_emb: write restore="size".'
        )


def warn_of_pages(parts: Parts, policy: Policy) -> None:
    """Warn once if the model reads text off pages (OCR) and a budget is below the share that such a model can give.

    There nearly every visual token carries letters, so no token stands for another.
    """
    budgets = policy.keep.schedule.values() if isinstance(policy.keep, PerLayer) else [policy.keep]
    each = [one for budget in budgets for one in (budget if isinstance(budget, (list, tuple)) else [budget])]
    mild = all(isinstance(budget, Ratio) and budget.share >= PAGE_SHARE for budget in each)
    if parts.family.model_type in PAGE_READERS and not mild:
        _warn_of_pages(parts.family.model_type)


@cache
def _warn_of_pages(model_type: str) -> None:
    warnings.warn(
        f"a {model_type!r} model reads text off pages, where nearly every visual token carries letters: published "
        f"methods fall below random there. Keep {PAGE_SHARE:.0%} or more, keep=Ratio({PAGE_SHARE}), or pass smaller "
        "images and prune nothing.",
        PruneWarning,
        stacklevel=4,
    )


def in_tower(policy: Policy) -> list[Seen]:
    """The method's needs that are read in the vision tower."""
    return [need for need in policy.method.needs if isinstance(need, Seen) and need.in_tower]


def in_decoder(policy: Policy) -> list[Seen]:
    """The method's needs that are read in a decoder layer."""
    return [need for need in policy.method.needs if isinstance(need, Seen) and not need.in_tower]


def layers_read(parts: Parts, need: Seen, starts: list[int]) -> list[int]:
    """Find the decoder layers that a need is read in, for cuts before the layers `starts`.

    Without a layer of its own it is read in the last layer before each cut that has it: a layer with a recurrent state
    has no attention, and gives changes alone.
    """
    if need.layer is not None:
        return [int(need.layer)]
    able = [i for i, kind in enumerate(parts.kinds) if isinstance(need, Change) or not kind.recurrent]
    before = [[layer for layer in able if layer < start] for start in starts]
    return list(dict.fromkeys(layers[-1] for layers in before if layers))


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
    read = layers_read(parts, need, [first])
    if not read:
        return (
            f"no decoder layer before {first} has attention, since layers of type {parts.kinds[0].name} keep a "
            f"recurrent state instead: use at=Layer({parts.first + 1}) or later"
        )
    if parts.kinds[read[0]].recurrent:
        names = ", ".join(str(i) for i, kind in enumerate(parts.kinds[:first]) if not kind.recurrent) or "none"
        return (
            f"decoder layer {read[0]} keeps a recurrent state and has no attention; before the cut these have: {names}"
        )
    if parts.decoder_type not in READABLE:
        known = ", ".join(READABLE)
        return f"attention weights of a {parts.decoder_type!r} decoder are not known here, only of {known}"
    lacking = [str(seam) for seam in probe_seams(parts) if not seam.there]
    return f"this release of transformers lacks {', '.join(lacking)}" if lacking else None


def _lacking_in_tower(parts: Parts, need: Seen) -> str | None:
    whose = f"the vision tower of this {parts.family.model_type!r} model"
    if parts.family.tower is None and parts.family.proven:
        return f"{whose} cannot be read: {parts.family.why_unread}"
    if parts.tower is None or not parts.tower_layers:
        return f"{whose} is of type {parts.tower_type!r}, which is not known here, only {', '.join(READABLE_TOWERS)}"
    if isinstance(need, Attention) and need.kind == "cls" and not parts.class_token:
        return f"{whose} has no class token that attends to patches"
    if isinstance(need, Keys) and need.of == "text":
        return f"{whose} reads no text, so use Keys('decoder', of='text')"
    return _tower_layer(parts, need)[1]


def _tower_layer(parts: Parts, need: Seen) -> tuple[int | None, str | None]:
    """Return the layer of the vision tower that the need names, or the reason why there is none."""
    normed = parts.family.tower is not None and parts.family.tower.normed
    return tower_layer(need, parts.config, len(parts.tower_layers), normed=normed)
