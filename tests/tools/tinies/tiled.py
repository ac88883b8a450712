"""Tiny models that cut an image into tiles (SmolVLM, Idefics3, InternVL)."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tinies.words import BEGIN, END, IMAGE, Rows, Tiny, decoder, noise, tower


def internvl() -> Tiny:
    """InternVL: picture 2 has two tiles in one run of placeholders, all others one."""

    def images(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        numbers = [number for row in rows for number in row]
        tiles = [2 if number == 2 else 1 for number in numbers]
        pixels = [noise(10 * n + t, 3, 32, 32) for n, count in zip(numbers, tiles, strict=True) for t in range(count)]
        return {"pixel_values": torch.stack(pixels)}, [[BEGIN, *[IMAGE] * (16 * count), END] for count in tiles]

    config = InternVLConfig(
        text_config=decoder(model_type="qwen2"),
        vision_config=tower(image_size=[32, 32], patch_size=[4, 4]),
        image_token_id=IMAGE,
        image_seq_length=16,
        downsample_ratio=0.5,
    )
    return Tiny(InternVLForConditionalGeneration(config), images, has_grid=False)


GLOBAL, ROW = 104, 105
"""Markers in front of a SmolVLM image's global view and of its first tile; the next tile has the next marker."""


def tiled(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Picture 2 is split into two tiles and its global view, with markers between; the others are a global view."""
    views = [[(10 * n + t) for n in row for t in range(3 if n == 2 else 1)] for row in rows]
    pixels = torch.zeros(len(rows), max(map(len, views)), 3, 32, 32)
    for row, numbers in enumerate(views):
        for place, number in enumerate(numbers):
            pixels[row, place] = noise(number, 3, 32, 32)
    run = [IMAGE] * 16
    whole = [BEGIN, GLOBAL, *run, END]
    pieces = [
        [BEGIN, ROW, *run, BEGIN, ROW + 1, *run, *whole] if number == 2 else whole for row in rows for number in row
    ]
    return {"pixel_values": pixels}, pieces


def smolvlm() -> Tiny:
    """SmolVLM: tiles and a global view per image, with text between them."""
    vision = tower(image_size=32, patch_size=4)
    config = SmolVLMConfig(
        text_config=decoder(model_type="llama"),
        vision_config=vision,
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )
    return Tiny(SmolVLMForConditionalGeneration(config), tiled, has_grid=False)


def idefics3() -> Tiny:
    """Idefics3, which SmolVLM was made from."""
    vision = tower(image_size=32, patch_size=4)
    config = Idefics3Config(
        text_config=decoder(model_type="llama"),
        vision_config=vision,
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )
    return Tiny(Idefics3ForConditionalGeneration(config), tiled, has_grid=False)


BUILDERS = {"smolvlm": smolvlm, "idefics3": idefics3, "internvl": internvl}
