"""The table of families: one line each. What is not here is refused by name."""

from __future__ import annotations

from greedyprune.models._family import Family, square_patches
from greedyprune.registry import unknown

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llava", square_patches, note="LLaVA-1.5 and others with a CLIP- or SigLIP-type tower of fixed size"),
    )
}

IMPOSSIBLE: dict[str, str] = {
    "mllama": "its images enter by cross-attention, so there are no visual tokens in the sequence to drop",
    "blip-2": "a fixed set of learned queries stands for the image, there are no patch tokens in the sequence",
    "instructblip": "a fixed set of learned queries stands for the image, there are no patch tokens in the sequence",
    "florence2": "it is an encoder-decoder: its images are read by cross-attention",
}


def family_of(model_type: str) -> Family:
    """The family of a model type, or the reason why there is none."""
    if model_type in IMPOSSIBLE:
        raise ValueError(f"visual tokens of a {model_type!r} model cannot be pruned: {IMPOSSIBLE[model_type]}.")
    if model_type not in FAMILIES:
        raise unknown("model family", model_type, FAMILIES)
    return FAMILIES[model_type]
