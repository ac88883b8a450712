"""Tiny models of the newest releases (Llama 4, Kimi K2.5, MiniCPM-V 4.6, Molmo 2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import transformers
from torch import Tensor
from transformers import (
    Kimi_K25Config,
    Kimi_K25ForConditionalGeneration,
    Llama4Config,
    Llama4ForConditionalGeneration,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
)
from transformers.models.minicpmv4_6 import modeling_minicpmv4_6

from tinies.hybrid import patient
from tinies.words import BEGIN, END, IMAGE, VIDEO, Rows, Tiny, decoder, noise, tower

SIZES = ((8, 8), (6, 8), (8, 10), (6, 6))
"""Patches of a picture that 2 x 2 become tokens, rows and columns."""

WHOLE, COLUMN, ROW = 104, 105, 106
"""Llama 4: what stands before the view of the whole image, between the tiles of a row, and after a row of tiles."""


def llama_tiles(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Picture 2 has two tiles and a view of the whole, with markers between; the others one view. 9 tokens each."""
    numbers = [number for row in rows for number in row]
    views = [10 * n + view for n in numbers for view in range(3 if n == 2 else 1)]
    run = [IMAGE] * 9
    whole = [WHOLE, *run, END]
    pieces = [[BEGIN, *([*run, COLUMN, *run, ROW] if number == 2 else []), *whole] for number in numbers]
    return {"pixel_values": torch.stack([noise(view, 3, 24, 24) for view in views])}, pieces


def llama4(chunk: int = 512) -> Tiny:
    """Llama 4: mixtures of experts, three layers that look at chunks to one that looks at all, without rotation."""
    text = decoder(
        head_dim=8,
        intermediate_size=32,
        intermediate_size_mlp=64,
        interleave_moe_layer_step=2,
        num_local_experts=4,
        attention_chunk_size=chunk,
    )
    vision = tower(
        intermediate_size=128,  # the tower's own width x 4: it is also the width behind the pixel shuffle
        image_size=24,
        patch_size=4,
        pixel_shuffle_ratio=0.5,
        projector_input_dim=32,
        projector_output_dim=32,
        vision_output_dim=32,
    )
    config = Llama4Config(
        text_config=text,
        vision_config=vision,
        image_token_index=IMAGE,
        boi_token_index=BEGIN,
        eoi_token_index=END,
    )
    return Tiny(Llama4ForConditionalGeneration(config), llama_tiles, has_grid=False)


def kimi_patches(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Images of several sizes as patches of 4 x 4 pixels, row by row, with their grids."""
    numbers = [number for row in rows for number in row]
    grids = [SIZES[number % len(SIZES)] for number in numbers]
    pixels = torch.cat([noise(number, h * w, 3, 4, 4) for number, (h, w) in zip(numbers, grids, strict=True)])
    vision = {"pixel_values": pixels, "image_grid_thw": torch.tensor([(1, h, w) for h, w in grids])}
    return vision, [[BEGIN, *[IMAGE] * (h * w // 4), END] for h, w in grids]


def kimi_k25() -> Tiny:
    """Kimi K2.5: DeepSeek-V3, whose keys and values differ in width, with images of any size."""
    text = decoder(
        model_type="deepseek_v3",
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        moe_intermediate_size=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    )
    vision = tower(patch_size=4, pos_emb_height=8, pos_emb_width=8)
    config = Kimi_K25Config(
        text_config=text,
        vision_config=vision,
        projection_hidden_size=32,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=BEGIN,
        vision_end_token_id=END,
    )
    return Tiny(Kimi_K25ForConditionalGeneration(config), kimi_patches, has_grid=False)


SLICE, SLICED = 108, 109
"""MiniCPM-V: the borders of a slice."""

UNEVEN = not hasattr(modeling_minicpmv4_6, "get_vision_merged_shape")
"""Whether this release can read pictures of several sizes at once; the oldest takes all to be as large as the first."""


def packed(rows: Rows, slices: int) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Images of several sizes, all their patches in one long row; picture 2 is followed by that many slices of it."""
    numbers = [number for row in rows for number in row]
    views, pieces = [], []
    for number in numbers:
        h, w = SIZES[number % len(SIZES) if UNEVEN else 0]
        views.append((10 * number, 2 * h, 2 * w))
        piece = [BEGIN, *[IMAGE] * (h * w // 4), END]
        for place in range(1, slices + 1 if number == 2 else 1):
            views.append((10 * number + place, 12, 12))
            piece += [SLICE, *[IMAGE] * 9, SLICED]
        pieces.append(piece)
    pixels = torch.cat([noise(view, 1, 3, 4, 4 * h * w) for view, h, w in views], -1)
    return {"pixel_values": pixels, "target_sizes": torch.tensor([(h, w) for _, h, w in views])}, pieces


def minicpmv4_6(slices: int = 0) -> Tiny:
    """MiniCPM-V 4.6: Qwen3.5 as decoder (linear and full attention), 4 x 4 patches to a token."""
    text = decoder(
        model_type="qwen3_5_text",
        head_dim=16,
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 0.5,
            "mrope_interleaved": True,
        },
    )
    config = MiniCPMV4_6Config(
        text_config=text,
        vision_config=tower(image_size=64, patch_size=4),
        insert_layer_id=0,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return Tiny(patient(MiniCPMV4_6ForConditionalGeneration(config)), partial(packed, slices=slices), has_grid=False)


LOW, LINE = 110, 111
"""Molmo 2: the beginning of the small view, and the end of a row of patches."""


def molmo_crops(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """A small view of 2 x 2 tokens, then the image from one crop (3 x 3 tokens) or, picture 2, from two (3 x 6)."""
    numbers = [number for row in rows for number in row]
    crops, pooled, grids, pieces = [], [], [], []
    for number in numbers:
        wide = 2 if number == 2 else 1
        first = 36 * len(crops)
        crops += [noise(10 * number + crop, 36, 3 * 4 * 4) for crop in range(1 + wide)]
        # Each token is made of some patches of 6 x 6, -1 for none: 3 x 3 of the small view, 2 x 2 of the crops.
        patches = torch.arange(36).view(6, 6)
        small = patches.unfold(0, 3, 3).unfold(1, 3, 3).reshape(-1, 9) + first
        large = torch.cat([patches + 36 * (1 + crop) for crop in range(wide)], 1)
        large = large.unfold(0, 2, 2).unfold(1, 2, 2).reshape(-1, 4) + first
        pooled += [small, torch.nn.functional.pad(large, (0, 5), value=-1)]
        grids.append((2, 2, 3, 3 * wide))
        high = [BEGIN, *[*[IMAGE] * (3 * wide), LINE] * 3, END]
        pieces.append([LOW, *[*[IMAGE] * 2, LINE] * 2, END, *high])
    vision = {
        "pixel_values": torch.stack(crops),
        "image_token_pooling": torch.cat(pooled),
        "image_grids": torch.tensor(grids),
        "image_num_crops": torch.tensor([3 if number == 2 else 2 for number in numbers]),
    }
    return vision, pieces


def marked_types(ids: Tensor) -> dict[str, Tensor]:
    """Which tokens belong to images, markers too: in Molmo 2 all of them see each other, across images."""
    return {"mm_token_type_ids": torch.isin(ids, torch.tensor([IMAGE, BEGIN, END, LOW, LINE])).long()}


def molmo2() -> Tiny:
    """Molmo 2: image features are added to the placeholder's own embedding; all images see each other."""
    adapter = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = transformers.Molmo2Config(
        text_config=decoder(head_dim=8, additional_vocab_size=4),
        vision_config=tower(num_key_value_heads=4, head_dim=8, image_size=[24, 24], patch_size=4),
        adapter_config={**adapter, "head_dim": 8, "text_hidden_size": 32, "vision_feature_layer": [1, 0]},
        image_patch_id=IMAGE,
        image_start_token_id=BEGIN,
        low_res_image_start_token_id=LOW,
        image_end_token_id=END,
        frame_start_token_id=BEGIN,
        frame_end_token_id=END,
    )
    return Tiny(transformers.Molmo2ForConditionalGeneration(config), molmo_crops, marked_types, has_grid=False)


BUILDERS: dict[str, Callable[[], Tiny]] = {
    "kimi_k25": kimi_k25,
    "minicpmv4_6": minicpmv4_6,
    **({"molmo2": molmo2} if hasattr(transformers, "Molmo2Config") else {}),  # not in the oldest release we support
}

VARIANTS: dict[str, Callable[[], Tiny]] = {
    **({"minicpmv4_6 slices": partial(minicpmv4_6, 2)} if UNEVEN else {}),
}
"""Further tiny models of these families."""
