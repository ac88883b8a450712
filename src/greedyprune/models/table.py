"""The table of families, one entry each. A model type that is not here must pass a self-test on its first prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from greedyprune.models._family import Family, Tower, audio, image, video
from greedyprune.models.folds import (
    downsampled_blocks,
    merged_alike,
    merged_blocks,
    merged_frames,
    merged_lines,
    merged_runs,
    merged_windows,
    one_by_one,
    one_by_one_behind_class,
    padded_blocks,
    placed_blocks,
    pooled_blocks,
    shuffled_blocks,
    shuffled_blocks_behind_class,
    strided_blocks,
)
from greedyprune.models.layouts import (
    by_features,
    by_features_or_runs,
    by_runs,
    by_tower,
    lines,
    newlines,
    overview_first,
    positioned_grids,
    runs_near,
    runs_of_tiles,
    runs_until_global,
    runs_until_last,
    squares,
)
from greedyprune.registry import unknown

DEEPSTACK = ("visual_pos_masks", "deepstack_visual_embeds")
TILES = "an image is all its tiles together"
VIEWS = "an image is all its tiles and its global view together"
ROWS = "newlines stay while their row does"
STATES = "layers with linear attention keep a state"
WINDOWS = "a sound is all its windows together"
CONVOLVED = Tower("visual", merged_runs, normed=False)
PACKED = Tower("vision_tower", one_by_one, class_token="class_embedding", normed=False, packs=True)
PIXTRAL = Tower("vision_tower", merged_lines, normed=False, sizes="image_sizes")
CLIPS = (video(positioned_grids),)
CLIPS_OF_IMAGES = (video(positioned_grids, "image_token_id"),)
SOUNDS = (audio(by_runs),)

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        # One size of image
        Family(
            "llava",
            by_tower,
            sizes="by tower",
            tower=Tower("vision_tower", one_by_one, class_token="class_embedding", normed=False),
            note="LLaVA-1.5 and others; with Pixtral's tower the breaks between rows of patches are text and stay",
        ),
        Family(
            "vipllava",
            squares,
            sizes="one",
            tower=Tower("vision_tower", one_by_one_behind_class, class_token="class_embedding", normed=False),
        ),
        Family(
            "fast_vlm",
            squares,
            sizes="one",
            unread="its tower is convolutional, with attention in the last stages alone",
        ),
        Family(
            "gemma3",
            squares,
            sizes="one",
            note="an image's tokens see each other; windows count what stays; a crop (pan and scan) is an image",
            crops=True,
            tower=Tower("vision_tower", pooled_blocks),
        ),
        Family(
            "paligemma",
            squares,
            sizes="one",
            tower=Tower("vision_tower", one_by_one),
            note="the whole prompt sees itself",
        ),
        # Images of any size
        Family("qwen2_vl", positioned_grids, sizes="own", also=CLIPS, tower=Tower("visual", merged_runs)),
        Family("qwen2_5_vl", positioned_grids, sizes="own", also=CLIPS, tower=Tower("visual", merged_windows)),
        Family(
            "qwen3_vl",
            positioned_grids,
            sizes="own",
            also=CLIPS,
            deepstack=DEEPSTACK,
            tower=Tower("visual", merged_runs),
        ),
        Family(
            "qwen3_vl_moe",
            positioned_grids,
            sizes="own",
            also=CLIPS,
            deepstack=DEEPSTACK,
            tower=Tower("visual", merged_runs),
        ),
        Family(
            "qwen3_5",
            positioned_grids,
            sizes="own",
            also=CLIPS,
            tower=Tower("visual", merged_runs),
            late=True,
            note=STATES,
        ),
        Family(
            "qwen3_5_moe",
            positioned_grids,
            sizes="own",
            also=CLIPS,
            tower=Tower("visual", merged_runs),
            late=True,
            note=STATES,
        ),
        Family("glm4v", positioned_grids, also=CLIPS_OF_IMAGES, tower=CONVOLVED),
        Family("glm4v_moe", positioned_grids, also=CLIPS_OF_IMAGES, tower=CONVOLVED),
        Family("glm46v", positioned_grids, also=CLIPS_OF_IMAGES, tower=CONVOLVED),
        Family(
            "ernie4_5_vl_moe",
            positioned_grids,
            also=CLIPS,
            along=("moe_mm_token_type_ids",),
            tower=Tower("vision_tower", merged_frames),
        ),
        Family("paddleocr_vl", positioned_grids, tower=Tower("visual", merged_blocks)),
        Family(
            "video_llama_3",
            by_features,
            grid="no",
            tower=Tower("vision_model", merged_alike, normed=False, sizes="merge_sizes"),
            without=(("video", "it leaves out frames that hardly change, on the way to the decoder"),),
            note="images; videos are refused",
        ),
        Family("mistral3", lines, tower=PIXTRAL, note="the breaks between rows of patches are text and stay"),
        Family(
            "lighton_ocr",
            by_features,
            grid="no",
            tower=Tower("vision_encoder", merged_lines, normed=False, sizes="image_sizes"),
        ),
        Family(
            "kimi_k25",
            by_features,
            grid="no",
            tower=Tower("vision_tower", merged_blocks),
            note="its decoder caches a latent",
        ),
        Family(
            "gemma4",
            by_features,
            grid="no",
            along=("per_layer_inputs", "per_layer_input"),
            tower=Tower("vision_tower", placed_blocks, normed=False, sizes="pixel_position_ids"),
            note="where late layers use the keys of early ones (E2B, E4B), it can be cut at Input alone",
        ),
        Family(
            "molmo2",
            by_features,
            "image_patch_id",
            grid="no",
            unread="a further attention pools patches of several layers to each token",
        ),
        # Tiles
        Family("llava_next", newlines, newline="image_newline", grid="no", tower=PACKED, note=ROWS),
        Family(
            "llava_next_video",
            newlines,
            also=(video(newlines),),
            newline="image_newline",
            grid="no",
            tower=PACKED,
            note=ROWS,
        ),
        Family(
            "llava_onevision",
            newlines,
            also=(video(newlines),),
            newline="image_newline",
            grid="no",
            tower=replace(PACKED, class_token=None),
            note=ROWS,
        ),
        Family(
            "smolvlm",
            runs_until_global,
            tower=Tower("vision_model", shuffled_blocks),
            sizes="tiles",
            grid="one tile",
            note=VIEWS,
        ),
        Family(
            "idefics3",
            runs_until_global,
            tower=Tower("vision_model", shuffled_blocks),
            sizes="tiles",
            grid="one tile",
            note=VIEWS,
        ),
        Family(
            "internvl",
            runs_of_tiles,
            tower=Tower("vision_tower", shuffled_blocks_behind_class, class_token="cls_token"),
            sizes="tiles",
            grid="one tile",
            note=TILES,
        ),
        Family(
            "got_ocr2",
            by_runs,
            grid="no",
            unread="its tower's attention has windows and relative positions, and convolutions overlap the patches",
            note=TILES,
        ),
        Family(
            "perception_lm",
            by_runs,
            grid="no",
            unread="its tower is of timm, with modules of its own",
            note="an image is all its tiles, which stand in one run",
        ),
        Family(
            "aya_vision",
            runs_until_last,
            grid="no",
            tower=Tower("vision_tower", downsampled_blocks, normed=False),
            note=TILES,
        ),
        Family("cohere2_vision", runs_near, grid="no", tower=Tower("vision_tower", downsampled_blocks), note=TILES),
        Family("ovis2", runs_near, grid="no", tower=Tower("vision_tower", strided_blocks, normed=False), note=TILES),
        Family(
            "lfm2_vl",
            runs_near,
            norm="embedding_norm",
            grid="no",
            tower=Tower("vision_tower", padded_blocks, sizes="spatial_shapes"),
            late=True,
            note="an image is all its tiles; hybrid",
        ),
        Family(
            "minicpmv4_6",
            overview_first,
            grid="no",
            unread="patches merge inside the tower, so its layers differ in their rows",
            late=True,
            note="an image is its overview and its slices together",
        ),
        # Sounds
        Family("voxtral", also=SOUNDS, grid="no", note=WINDOWS),
        Family("qwen2_audio", also=(audio(by_runs, features=""),), grid="no"),
        Family("audioflamingo3", also=SOUNDS, grid="no", note=WINDOWS),
        Family("granite_speech", also=SOUNDS, grid="no"),
    )
}

IMPOSSIBLE: dict[str, str] = {
    "llama4": "its decoder attends to fixed chunks of the sequence, which move if tokens are dropped",
    "mllama": "its images enter by cross-attention, so there are no visual tokens in the sequence to drop",
    "blip-2": "a fixed set of learned queries represents the image, so no patch tokens are in the sequence",
    "instructblip": "a fixed set of learned queries represents the image, so no patch tokens are in the sequence",
    "florence2": "it is an encoder-decoder: its images are read by cross-attention",
}


def family_of(model_type: str, config: Any = None) -> Family:
    """Return the family of a model type. With a config, a type that is not in the table gets a guessed family.

        family = family_of("llava")
        family = family_of(model.config.model_type, model.config)

    Raises ValueError if the type cannot be pruned or is not known.
    """
    if model_type in IMPOSSIBLE:
        raise ValueError(f"visual tokens of a {model_type!r} model cannot be pruned: {IMPOSSIBLE[model_type]}.")
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    family = None if config is None else _guessed(model_type, config)
    if family is None:
        raise unknown("model family", model_type, FAMILIES)
    return family


def _guessed(model_type: str, config: Any) -> Family | None:
    """Guess a family for a model type that is not in the table; None if its config names no placeholder."""
    names = {
        "image": ("image_token_id", "image_token_index"),
        "video": ("video_token_id",),
        "audio": ("audio_token_id",),
    }
    made = {"image": image, "video": video, "audio": audio}
    found = [
        made[kind](by_features_or_runs, name)
        for kind, each in names.items()
        for name in each[: 1 if getattr(config, each[0], None) is not None else None]
        if getattr(config, name, None) is not None
    ]
    return Family(model_type, also=tuple(found), proven=False) if found else None
