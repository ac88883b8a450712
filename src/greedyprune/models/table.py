"""The table of families: one entry each. What is not here is refused by name."""

from __future__ import annotations

from greedyprune.models._family import (
    Family,
    Tower,
    merged_runs,
    merged_windows,
    one_by_one,
    positioned_grids,
    runs_of_tiles,
    runs_until_global,
    shuffled_blocks,
    shuffled_blocks_behind_class,
    square_patches,
)
from greedyprune.registry import unknown

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "llava",
            square_patches,
            tower=Tower("vision_tower", one_by_one, class_token="class_embedding", normed=False),
            note="LLaVA-1.5 and others with a tower of fixed image size",
        ),
        Family(
            "qwen2_5_vl",
            positioned_grids,
            tower=Tower("visual", merged_windows),
            note="images; video is refused for now",
        ),
        Family(
            "qwen3_vl",
            positioned_grids,
            deepstack=("visual_pos_masks", "deepstack_visual_embeds"),
            tower=Tower("visual", merged_runs),
            note="images, with their DeepStack features; video is refused for now",
        ),
        Family(
            "smolvlm",
            runs_until_global,
            tower=Tower("vision_model", shuffled_blocks),
            tiles=True,
            note="an image is all its tiles and its global view together",
        ),
        Family(
            "idefics3",
            runs_until_global,
            tower=Tower("vision_model", shuffled_blocks),
            tiles=True,
            note="an image is all its tiles and its global view together",
        ),
        Family(
            "internvl",
            runs_of_tiles,
            tower=Tower("vision_tower", shuffled_blocks_behind_class, class_token="cls_token"),
            tiles=True,
            note="an image is all its tiles together",
        ),
    )
}

READABLE: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3", "qwen2_5_vl_text", "qwen3_vl_text")
"""Decoders, by the model type of their config, whose attention weights the probes can compute again."""

READABLE_TOWERS: tuple[str, ...] = (
    "clip_vision_model",
    "siglip_vision_model",
    "internvl_vision",
    "smolvlm_vision",
    "idefics3_vision",
    "qwen2_5_vl_vision",
    "qwen3_vl_vision",
)
"""The same of vision towers."""

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
