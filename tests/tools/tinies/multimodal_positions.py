"""Tiny models with images of any size and multimodal positions (Qwen-VL type)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import (
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from tinies.words import BEGIN, END, IMAGE, VIDEO, Rows, Tiny, decoder, noise

SIZES = ((8, 8), (6, 8), (8, 10), (6, 6))
"""Patches of a picture, rows and columns, for models that take pictures of any size."""

PATCH = (3 * 2 * 4 * 4,)
"""A patch of Qwen type: 4 x 4 pixels of two equal frames, flat."""


def patches_of(*patch: int) -> Callable[[Rows], tuple[dict[str, Tensor], list[list[int]]]]:
    """Images of several sizes as patches of this shape with their grids; 2 x 2 patches are merged into a token."""

    def images(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        numbers = [number for row in rows for number in row]
        grids = [SIZES[number % len(SIZES)] for number in numbers]
        pixels = torch.cat([noise(number, h * w, *patch) for number, (h, w) in zip(numbers, grids, strict=True)])
        vision = {"pixel_values": pixels, "image_grid_thw": torch.tensor([(1, h, w) for h, w in grids])}
        return vision, [[BEGIN, *[IMAGE] * (h * w // 4), END] for h, w in grids]

    return images


patches = patches_of(*PATCH)


def token_types(ids: Tensor) -> dict[str, Tensor]:
    """Which tokens are images (1) and videos (2), which Qwen models ask for."""
    return {"mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long()}


VIDEO_BEGIN, VIDEO_END = 108, 109
"""Markers around a video, where they are not those of images."""

VISUAL_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}
QWEN_IDS = {**VISUAL_IDS, "vision_start_token_id": BEGIN, "vision_end_token_id": END}
MARKED_IDS = {**VISUAL_IDS, "image_start_token_id": BEGIN, "image_end_token_id": END}
MARKED_IDS |= {"video_start_token_id": VIDEO_BEGIN, "video_end_token_id": VIDEO_END}
PATCHES = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 4}
QWEN_TOWER = {**PATCHES, "out_hidden_size": 32}
QWEN2_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
QWEN3_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
QWEN3_TOWER = {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_position_embeddings": 64, **QWEN_TOWER}
DEEPSTACK = {"deepstack_visual_indexes": [0, 1, 2]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def qwen2_vl() -> Tiny:
    """Qwen2-VL: images of any size, three rows of positions; `hidden_size` of its tower is the width behind it."""
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, **PATCHES}
    config = Qwen2VLConfig(text_config=decoder(rope_parameters=QWEN2_ROPE), vision_config=vision, **QWEN_IDS)
    return Tiny(Qwen2VLForConditionalGeneration(config), patches, token_types)


def qwen2_5_vl() -> Tiny:
    """Qwen2.5-VL: windowed tower, images of any size, three rows of positions."""
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "window_size": 16, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(
        text_config=decoder(rope_parameters=QWEN2_ROPE), vision_config={**vision, **QWEN_TOWER}, **QWEN_IDS
    )
    return Tiny(Qwen2_5_VLForConditionalGeneration(config), patches, token_types)


def qwen3_vl() -> Tiny:
    """Qwen3-VL: the same, and visual features added after the first three decoder layers (DeepStack)."""
    config = Qwen3VLConfig(
        text_config=decoder(head_dim=8, rope_parameters=QWEN3_ROPE),
        vision_config={**QWEN3_TOWER, **DEEPSTACK},
        **QWEN_IDS,
    )
    return Tiny(Qwen3VLForConditionalGeneration(config), patches, token_types)


def qwen3_vl_moe() -> Tiny:
    """Qwen3-VL with a mixture of experts in every decoder layer."""
    config = Qwen3VLMoeConfig(
        text_config=decoder(head_dim=8, rope_parameters=QWEN3_ROPE, **EXPERTS),
        vision_config={**QWEN3_TOWER, **DEEPSTACK},
        **QWEN_IDS,
    )
    return Tiny(Qwen3VLMoeForConditionalGeneration(config), patches, token_types)


def paddleocr_vl() -> Tiny:
    """PaddleOCR-VL: patches that are small images, learned positions, a projector that merges 2 x 2."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 32, "patch_size": 4, "spatial_merge_size": 2}
    config = PaddleOCRVLConfig(
        text_config=decoder(head_dim=8, rope_parameters=QWEN2_ROPE), vision_config=vision, **QWEN_IDS
    )
    return Tiny(PaddleOCRVLForConditionalGeneration(config), patches_of(3, 4, 4), token_types)


def ernie_types(ids: Tensor) -> dict[str, Tensor]:
    """Which tokens are images (1) and videos (2); for its experts the markers are, too."""
    types = token_types(ids)["mm_token_type_ids"]
    marked = ((ids == BEGIN) | (ids == END)).long() + 2 * ((ids == VIDEO_BEGIN) | (ids == VIDEO_END)).long()
    return {"mm_token_type_ids": types, "moe_mm_token_type_ids": types + marked}


def ernie4_5_vl_moe() -> Tiny:
    """Ernie 4.5 VL: behind the first layer, text and visual tokens go to experts of their own."""
    experts = {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_intermediate_size": [32, 16]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 4}
    vision |= {"spatial_merge_size": 2, "temporal_merge_size": 2}
    config = Ernie4_5_VLMoeConfig(
        text_config=decoder(rope_parameters=QWEN2_ROPE, **experts), vision_config=vision, **MARKED_IDS
    )
    return Tiny(Ernie4_5_VLMoeForConditionalGeneration(config), patches_of(3 * 4 * 4), ernie_types)


BUILDERS: dict[str, Callable[[], Tiny]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "paddleocr_vl": paddleocr_vl,
    "ernie4_5_vl_moe": ernie4_5_vl_moe,
}
VARIANTS: dict[str, Callable[[], Tiny]] = {}
