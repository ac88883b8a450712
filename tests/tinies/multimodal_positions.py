"""Tiny models with images of any size and multimodal positions (Qwen-VL type)."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tinies.words import BEGIN, END, IMAGE, Rows, Tiny, decoder, noise

SIZES = ((8, 8), (6, 8), (8, 10), (6, 6))
"""Patches of a picture, rows and columns, for models that take pictures of any size."""


def patches(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Images of several sizes as flat patches with their grids (Qwen type, patches of 4 merged 2 x 2)."""
    numbers = [number for row in rows for number in row]
    grids = [SIZES[number % len(SIZES)] for number in numbers]
    pixels = torch.cat([noise(number, h * w, 3 * 2 * 4 * 4) for number, (h, w) in zip(numbers, grids, strict=True)])
    vision = {"pixel_values": pixels, "image_grid_thw": torch.tensor([(1, h, w) for h, w in grids])}
    return vision, [[BEGIN, *[IMAGE] * (h * w // 4), END] for h, w in grids]


def token_types(ids: Tensor) -> dict[str, Tensor]:
    """Which tokens are images, which Qwen models ask for."""
    return {"mm_token_type_ids": (ids == IMAGE).long()}


QWEN_IDS = {"image_token_id": IMAGE, "video_token_id": 101, "vision_start_token_id": BEGIN, "vision_end_token_id": END}
QWEN_TOWER = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 4, "out_hidden_size": 32}


def qwen2_5_vl() -> Tiny:
    """Qwen2.5-VL: windowed tower, images of any size, three rows of positions."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "window_size": 16, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(
        text_config=decoder(rope_parameters=rope), vision_config={**vision, **QWEN_TOWER}, **QWEN_IDS
    )
    return Tiny(Qwen2_5_VLForConditionalGeneration(config), patches, token_types)


def qwen3_vl() -> Tiny:
    """Qwen3-VL: the same, and visual features added after the first three decoder layers (DeepStack)."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_position_embeddings": 64}
    vision["deepstack_visual_indexes"] = [0, 1, 2]
    config = Qwen3VLConfig(
        text_config=decoder(head_dim=8, rope_parameters=rope), vision_config={**vision, **QWEN_TOWER}, **QWEN_IDS
    )
    return Tiny(Qwen3VLForConditionalGeneration(config), patches, token_types)


BUILDERS = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}
