"""Tiny random models, one builder per family, and prompts for them: no network, no processor, milliseconds per call.

A builder returns a `Tiny`: the model with random weights, and how images become keyword arguments and placeholder
tokens. Adding a family is one builder and its line in `BUILDERS`; the proofs run over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

VOCABULARY, IMAGE, BEGIN, END = 128, 100, 102, 103
SPECIAL = [100, 101, 102, 103, 104, 105, 106]
"""Tokens that stand for images or their borders: a model with random weights must not be free to generate them."""

Rows: TypeAlias = tuple[tuple[int, ...], ...]
"""The prompts of a batch, each as the numbers of its images. A number means one picture of one size everywhere."""


@dataclass(frozen=True, eq=False)
class Tiny:
    """A tiny model and how to feed it."""

    model: Any
    images: Callable[[Rows], tuple[dict[str, Tensor], list[list[int]]]]
    """The vision arguments of a batch, and the tokens that stand for each image, borders included, in order."""
    extras: Callable[[Tensor], dict[str, Tensor]] = lambda ids: {}
    """Arguments that follow from the token ids, such as token types."""
    has_grid: bool = True
    """Whether its images lie on a grid, which some methods need."""

    def prompt(self, rows: Rows) -> dict[str, Tensor]:
        """The inputs of a batch, padded on the left. The same row has the same tokens in every batch."""
        vision, pieces = self.images(rows) if any(rows) else ({}, [])
        left = iter(pieces)
        texts = [_tokens(row, left) for row in rows]
        longest = max(map(len, texts))
        ids = torch.tensor([[0] * (longest - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
        return {"input_ids": ids, "attention_mask": mask, **vision, **self.extras(ids)}

    def continued(self, inputs: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
        """The inputs of a prompt with more text after it. `ids` are all tokens, those of the prompt first."""
        more = inputs["attention_mask"].new_ones(ids.shape[0], ids.shape[1] - inputs["input_ids"].shape[1])
        mask = torch.cat([inputs["attention_mask"], more], 1)
        return {**inputs, "input_ids": ids, "attention_mask": mask, **self.extras(ids)}


def _tokens(row: tuple[int, ...], pieces: Any) -> list[int]:
    """One prompt: text, then every image with text after it."""
    generator = torch.Generator().manual_seed(1000 + sum(10**place * (number + 1) for place, number in enumerate(row)))

    def words(count: int) -> list[int]:
        return torch.randint(5, 90, (count,), generator=generator).tolist()

    tokens = words(4)
    for _ in row:
        tokens += next(pieces) + words(3)
    return tokens + words(6)


def noise(number: int, *shape: int) -> Tensor:
    """The picture of this number."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))


def decoder(**more: Any) -> dict[str, Any]:
    """The config of a tiny decoder: 4 layers, 4 heads that share 2 key-value heads."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


def tower(**more: Any) -> dict[str, Any]:
    """The config of a tiny vision tower."""
    return {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, **more}


def squares(side: int, tokens: int) -> Callable[[Rows], tuple[dict[str, Tensor], list[list[int]]]]:
    """Images of one size, stacked: (images, 3, side, side)."""

    def images(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        numbers = [number for row in rows for number in row]
        pixels = torch.stack([noise(number, 3, side, side) for number in numbers])
        return {"pixel_values": pixels}, [[BEGIN, *[IMAGE] * tokens, END] for _ in numbers]

    return images


def llava() -> Tiny:
    """LLaVA-1.5: a CLIP tower, 4 x 4 tokens per image."""
    vision = tower(model_type="clip_vision_model", num_hidden_layers=3, image_size=24, patch_size=6, projection_dim=32)
    config = LlavaConfig(
        vision_config=vision,
        text_config=decoder(model_type="llama"),
        image_token_id=IMAGE,
        image_token_index=IMAGE,
        image_seq_length=16,
        vision_feature_layer=-2,
    )
    return Tiny(LlavaForConditionalGeneration(config), squares(side=24, tokens=16))


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


BUILDERS: dict[str, Callable[[], Tiny]] = {
    "llava": llava,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "internvl": internvl,
}
"""One builder per model type of `greedyprune.models.table.FAMILIES`."""

built: dict[tuple[str, str], Any] = {}
"""The models made so far, by family and attention."""


@cache
def tiny(family: str, attention: str = "sdpa") -> Tiny:
    """The tiny model of a family, always with the same weights, shared by all tests."""
    made = fresh(family, attention)
    built[family, attention] = made.model
    return made


def fresh(family: str, attention: str = "sdpa") -> Tiny:
    """The same, for one test alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for the weights that stay as the library draws them
        made = BUILDERS[family]()
    model = made.model.eval()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if (
            weight.ndim >= 2
        ):  # wide enough that every token matters, so that a proof about dropped tokens says something
            weight.data = torch.randn(weight.shape, generator=generator) * (0.6 if "embed" in name else 0.25)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.set_attn_implementation(attention)
    return made
