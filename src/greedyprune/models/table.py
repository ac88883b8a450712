"""The table of families: one entry each. What is not here is refused by name."""

from __future__ import annotations

from greedyprune.models._family import Family, positioned_grids, runs_of_tiles, runs_until_global, square_patches
from greedyprune.registry import unknown

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "llava",
            square_patches,
            class_token=("vision_tower", "class_embedding"),
            note="LLaVA-1.5 and others with a tower of fixed image size",
        ),
        Family("qwen2_5_vl", positioned_grids, note="images; video is refused for now"),
        Family(
            "qwen3_vl",
            positioned_grids,
            deepstack=("visual_pos_masks", "deepstack_visual_embeds"),
            note="images, with their DeepStack features; video is refused for now",
        ),
        Family("smolvlm", runs_until_global, note="an image is all its tiles and its global view together"),
        Family("idefics3", runs_until_global, note="an image is all its tiles and its global view together"),
        Family("internvl", runs_of_tiles, note="an image is all its tiles together"),
    )
}

READABLE: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3", "qwen2_5_vl_text", "qwen3_vl_text")
"""Decoders, by the model type of their config, whose attention weights the probes can compute again."""

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
