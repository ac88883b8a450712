"""Tiny models that read an image in its own size, or in nearly that, with plain positions (Mistral 3, LFM2-VL)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
)

from tinies.words import BEGIN, END, IMAGE, Rows, Tiny, decoder, noise, tower

PATCH, MERGE = 4, 2
"""Pixels along a patch, and patches along a token."""
GRIDS = ((4, 4), (3, 4), (4, 5))
"""Tokens of a picture, rows and columns."""
BREAK, TILE, THUMBNAIL = 104, 105, 108
"""Markers: behind a row of tokens; in front of an image's first tile; in front of its view as a whole."""


def lines(rows: int, columns: int) -> list[int]:
    """Every row of tokens with a break behind it, the last one with the end."""
    return [*([*[IMAGE] * columns, BREAK] * rows)[:-1], END]


Images = Callable[[Rows], tuple[dict[str, Tensor], list[list[int]]]]


def padded(piece: Callable[[int, int], list[int]]) -> Images:
    """Images padded to the largest below and on the right, with their sizes. (images, 3, height, width)"""

    def images(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        numbers = [number for row in rows for number in row]
        grids = [GRIDS[number % len(GRIDS)] for number in numbers]
        sizes = [(PATCH * MERGE * h, PATCH * MERGE * w) for h, w in grids]
        pixels = torch.zeros(len(numbers), 3, max(h for h, _ in sizes), max(w for _, w in sizes))
        for place, (number, (height, width)) in enumerate(zip(numbers, sizes, strict=True)):
            pixels[place, :, :height, :width] = noise(number, 3, height, width)
        vision = {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}
        return vision, [piece(h, w) for h, w in grids]

    return images


def pixtral() -> dict[str, Any]:
    """The config of a Pixtral tower."""
    return tower(model_type="pixtral", image_size=64, patch_size=PATCH, head_dim=8)


def mistral3(**text: Any) -> Tiny:
    """Mistral Small 3.1: a Pixtral tower, 2 x 2 patches per token, a text token behind each row of tokens."""
    text = {"model_type": "mistral", "sliding_window": None, **text}
    config = Mistral3Config(
        vision_config=pixtral(),
        text_config=decoder(head_dim=8, **text),
        image_token_index=IMAGE,
        spatial_merge_size=MERGE,
        tie_word_embeddings=False,
    )
    return Tiny(Mistral3ForConditionalGeneration(config), padded(lines))


def ministral3() -> Tiny:
    """Ministral 3: the same with a decoder that scales queries by their position."""
    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 32}
    return mistral3(model_type="ministral3", rope_parameters={**rope, "llama_4_scaling_beta": 0.1})


def lighton_ocr() -> Tiny:
    """LightOnOCR: a Pixtral tower, no markers at all."""
    config = LightOnOcrConfig(
        vision_config=pixtral(),
        text_config=decoder(model_type="qwen3", head_dim=8),
        image_token_id=IMAGE,
        spatial_merge_size=MERGE,
        tie_word_embeddings=False,
    )
    return Tiny(LightOnOcrForConditionalGeneration(config), padded(lambda h, w: [IMAGE] * (h * w)), has_grid=False)


def views(number: int) -> list[tuple[int, int]]:
    """Patches of each part of a picture: picture 2 is two tiles and a view of the whole, the others one part."""
    return [(6, 6), (6, 6), (4, 8)] if number == 2 else [(8, 8) if number % 2 == 0 else (6, 8)]


def flat(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """The parts of all images as rows of flat patches, padded to equally many. (parts, patches, 3 * 4 * 4)"""
    numbers = [number for row in rows for number in row]
    parts = [(10 * number + place, shape) for number in numbers for place, shape in enumerate(views(number))]
    mask = torch.zeros(len(parts), max(h * w for _, (h, w) in parts), dtype=torch.int64)
    pixels = torch.zeros(*mask.shape, 3 * PATCH * PATCH)
    for place, (seed, (h, w)) in enumerate(parts):
        mask[place, : h * w], pixels[place, : h * w] = 1, noise(seed, h * w, 3 * PATCH * PATCH)
    shapes = torch.tensor([shape for _, shape in parts])
    return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shapes}, [*map(marked, numbers)]


def marked(number: int) -> list[int]:
    """The tokens of a picture: where it has tiles, a marker in front of each of its parts."""
    runs = [[IMAGE] * (h * w // MERGE**2) for h, w in views(number)]
    marks = [[], []] if len(runs) == 1 else [*([TILE + tile] for tile in range(len(runs) - 1)), [THUMBNAIL]]
    return [BEGIN, *(token for mark, run in zip(marks, runs, strict=False) for token in mark + run), END]


def lfm2_vl() -> Tiny:
    """LFM2-VL: a SigLIP2 tower for images of any size, and a decoder where short convolutions take turns."""
    kinds = ["conv", "full_attention", "conv", "full_attention"]
    config = Lfm2VlConfig(
        vision_config=tower(model_type="siglip2_vision_model", patch_size=PATCH, num_patches=64, vision_use_head=False),
        text_config=decoder(model_type="lfm2", layer_types=kinds, block_auto_adjust_ff_dim=False),
        image_token_id=IMAGE,
        projector_hidden_size=32,
        downsample_factor=MERGE,
        tie_word_embeddings=False,
    )
    return Tiny(Lfm2VlForConditionalGeneration(config), flat, has_grid=False)


BUILDERS: dict[str, Callable[[], Tiny]] = {"mistral3": mistral3, "lighton_ocr": lighton_ocr, "lfm2_vl": lfm2_vl}
VARIANTS: dict[str, Callable[[], Tiny]] = {"mistral3 ministral3": ministral3}
