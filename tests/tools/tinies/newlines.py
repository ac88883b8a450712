"""Tiny models that lay an image's tiles out as one picture, with a newline token behind each row (LLaVA-NeXT)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from tinies.words import BEGIN, END, IMAGE, VIDEO, Rows, Tiny, decoder, noise, tower

SIDE, PATCH = 12, 4
"""Pixels along a tile and along a patch: a tile has 3 x 3 tokens."""
CELLS = (SIDE // PATCH) ** 2
PINPOINTS = [[12, 24], [24, 12], [24, 24]]
"""The sizes in pixels that an image may be fitted to."""


@dataclass(frozen=True)
class Picture:
    """A picture of one size, and what becomes of it."""

    size: tuple[int, int]
    """Height and width in pixels, before it is padded to the best of the sizes above."""
    tiles: int
    """How many tiles that is, with the view of the whole picture, which comes first."""
    grid: tuple[int, int]
    """Rows and columns of tokens that its tiles leave together, padding cut away."""

    def tokens(self) -> int:
        """The whole view, then rows of tokens, each with a newline behind it."""
        rows, columns = self.grid
        return CELLS + rows * (columns + 1)


WIDE, TALL, LARGE = Picture((12, 16), 3, (3, 4)), Picture((16, 12), 3, (4, 3)), Picture((24, 16), 5, (6, 4))
ALBUM = (WIDE, TALL, LARGE)
"""Padding is cut away left and right, above and below, and left and right of two rows of tiles."""
SMALL_ALBUM = (WIDE, Picture((12, 12), 2, (3, 3)), Picture((24, 16), 5, (5, 3)))
"""The same where one tile is enough for a small picture, and where a large one is resized to fewer tokens."""

Images = Callable[[Rows], tuple[dict[str, Tensor], list[list[int]]]]


def anyres(album: tuple[Picture, ...]) -> Images:
    """The tiles of each image, padded to equally many with zeros. (images, tiles, 3, side, side)"""

    def images(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        numbers = [number for row in rows for number in row]
        pictures = [album[number % len(album)] for number in numbers]
        pixels = torch.zeros(len(numbers), max(picture.tiles for picture in pictures), 3, SIDE, SIDE)
        for place, (number, picture) in enumerate(zip(numbers, pictures, strict=True)):
            pixels[place, : picture.tiles] = noise(number, picture.tiles, 3, SIDE, SIDE)
        vision = {"pixel_values": pixels, "image_sizes": torch.tensor([picture.size for picture in pictures])}
        return vision, [[BEGIN, *[IMAGE] * picture.tokens(), END] for picture in pictures]

    return images


def counted(album: tuple[Picture, ...]) -> Images:
    """The same for a model that is told how many images a prompt has: two or more are one tile each, whole views."""

    def images(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        vision, pieces = anyres(album)(rows)
        vision["batch_num_images"] = torch.tensor([len(row) for row in rows if row])
        alone = [len(row) == 1 for row in rows for _ in row]
        short = [BEGIN, *[IMAGE] * (CELLS + 1), END]
        return vision, [piece if single else short for piece, single in zip(pieces, alone, strict=True)]

    return images


def frames(count: int, tokens: int) -> Images:
    """Videos, all of equally many frames, as the tensor they come in demands. (videos, frames, 3, side, side)"""

    def videos(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        numbers = [number for row in rows for number in row]
        pixels = torch.stack([noise(number, count, 3, SIDE, SIDE) for number in numbers])
        return {"pixel_values_videos": pixels}, [[BEGIN, *[VIDEO] * tokens, END] for _ in numbers]

    return videos


def clip() -> dict[str, Any]:
    """The config of a CLIP tower."""
    sizes = {"image_size": SIDE, "patch_size": PATCH, "projection_dim": 32}
    return tower(model_type="clip_vision_model", num_hidden_layers=3, **sizes)


def llava_next() -> Tiny:
    """LLaVA-NeXT (LLaVA-1.6): a CLIP tower."""
    config = LlavaNextConfig(
        vision_config=clip(),
        text_config=decoder(model_type="mistral", sliding_window=None),
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=CELLS,
    )
    return Tiny(LlavaNextForConditionalGeneration(config), anyres(ALBUM), has_grid=False)


def _next_video() -> LlavaNextVideoForConditionalGeneration:
    config = LlavaNextVideoConfig(
        vision_config=clip(),
        text_config=decoder(model_type="llama"),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=CELLS,
        spatial_pool_stride=1,
    )
    return LlavaNextVideoForConditionalGeneration(config)


def llava_next_video() -> Tiny:
    """LLaVA-NeXT-Video with images."""
    return Tiny(_next_video(), anyres(ALBUM), has_grid=False)


def llava_next_video_videos() -> Tiny:
    """LLaVA-NeXT-Video with videos, which have no newlines."""
    return Tiny(_next_video(), frames(2, tokens=2 * CELLS), has_grid=False, media=(VIDEO,))


def _onevision() -> LlavaOnevisionForConditionalGeneration:
    sizes = {"image_size": SIDE, "patch_size": PATCH, "vision_use_head": False}
    config = LlavaOnevisionConfig(
        vision_config=tower(model_type="siglip_vision_model", **sizes),
        text_config=decoder(model_type="qwen2"),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[SIDE, SIDE], *PINPOINTS],
        vision_aspect_ratio="anyres_max_2",
    )
    return LlavaOnevisionForConditionalGeneration(config)


def llava_onevision() -> Tiny:
    """LLaVA-OneVision with images: a SigLIP tower; a picture of too many tokens is resized to fewer."""
    return Tiny(_onevision(), anyres(SMALL_ALBUM), has_grid=False)


def llava_onevision_several() -> Tiny:
    """The same, where a prompt with several images gets the whole view of each and no tiles."""
    return Tiny(_onevision(), counted(SMALL_ALBUM), has_grid=False)


def llava_onevision_videos() -> Tiny:
    """LLaVA-OneVision with videos: 2 x 2 tokens per frame after pooling, one newline behind the last frame."""
    return Tiny(_onevision(), frames(3, tokens=13), has_grid=False, media=(VIDEO,))


BUILDERS: dict[str, Callable[[], Tiny]] = {
    "llava_next": llava_next,
    "llava_next_video": llava_next_video,
    "llava_onevision": llava_onevision,
}
VARIANTS: dict[str, Callable[[], Tiny]] = {
    "llava_next_video video": llava_next_video_videos,
    "llava_onevision several": llava_onevision_several,
    "llava_onevision video": llava_onevision_videos,
}
