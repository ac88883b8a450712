"""Tiny models that are shown videos, alone or beside images, laid out as their processors do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

from tinies.glm import glm4v, glm46v
from tinies.hybrid import qwen3_5
from tinies.multimodal_positions import (
    PATCH,
    VIDEO_BEGIN,
    VIDEO_END,
    ernie4_5_vl_moe,
    patches,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
)
from tinies.words import BEGIN, END, IMAGE, VIDEO, Rows, Tiny, decoder, noise, tower

FILMS = ((2, 6, 8), (3, 4, 6), (2, 4, 8), (3, 6, 6))
"""Patches of a video: rows of time (a frame, in most families two), rows and columns."""

SECONDS = (1.0, 0.125, 0.5, 2.0)
"""How long a row of frames lasts; video 1 is so fast that frames share their position in time."""

Film: TypeAlias = tuple[int, int, int]
Media: TypeAlias = Callable[[Rows], tuple[dict[str, Tensor], list[list[int]]]]


def film(number: int) -> Film:
    """The size of the video of this number."""
    return FILMS[number % len(FILMS)]


def run(size: Film) -> list[int]:
    """A video as one run of placeholders (Qwen2-VL)."""
    t, h, w = size
    return [BEGIN, *[VIDEO] * (t * h * w // 4), END]


def marked(size: Film) -> list[int]:
    """The same between markers of its own (Ernie)."""
    return [VIDEO_BEGIN, *run(size)[1:-1], VIDEO_END]


def stamped(size: Film) -> list[int]:
    """A video as frames between markers, in front of each its time as text (Qwen3-VL)."""
    t, h, w = size
    return [token for i in range(t) for token in (*stamp(i), BEGIN, *[VIDEO] * (h * w // 4), END)]


def enclosed(size: Film) -> list[int]:
    """A video as images behind each of which its time stands as text, all between markers of a video (GLM)."""
    t, h, w = size
    frames = [token for i in range(t) for token in (BEGIN, *[IMAGE] * (h * w // 4), END, *stamp(i))]
    return [VIDEO_BEGIN, *frames, VIDEO_END]


def stamp(frame: int) -> tuple[int, ...]:
    """The tokens of a time."""
    return 90, 91 + frame, 96


def films(
    piece: Callable[[Film], list[int]],
    pictures: Sequence[int] = (),
    *,
    timed: bool = False,
    patch: tuple[int, ...] = PATCH,
    merged: int = 1,
) -> Media:
    """Videos of several sizes laid out by `piece`, whose `merged` frames become one. Numbers in `pictures` are images.

    `timed`: the model is told how long a row of frames lasts.
    """

    def media(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        numbers = [number for row in rows for number in row]
        moving = [number for number in numbers if number not in pictures]
        vision, images = patches((tuple(n for n in numbers if n in pictures),)) if moving != numbers else ({}, [])
        left = iter(images)
        if moving:
            grids = [(t * merged, h, w) for t, h, w in map(film, moving)]
            pixels = [noise(100 + n, t * h * w, *patch) for n, (t, h, w) in zip(moving, grids, strict=True)]
            vision |= {"pixel_values_videos": torch.cat(pixels), "video_grid_thw": torch.tensor(grids)}
        if moving and timed:
            vision["second_per_grid_ts"] = torch.tensor([SECONDS[number % len(SECONDS)] for number in moving])
        return vision, [next(left) if number in pictures else piece(film(number)) for number in numbers]

    return media


STILLS = ((4, 6), (5, 4), (4, 7), (3, 5))
"""Patches of a picture for VideoLLaMA 3, which merges those of videos only."""


def stills(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Images whose every patch is a token, no marker in front and a new line behind."""
    numbers = [number for row in rows for number in row]
    grids = [STILLS[number % len(STILLS)] for number in numbers]
    pixels = torch.cat([noise(n, h * w, 3 * 4 * 4) for n, (h, w) in zip(numbers, grids, strict=True)])
    vision = {"pixel_values": pixels, "image_grid_thw": torch.tensor([(1, h, w) for h, w in grids])}
    vision["image_merge_sizes"] = torch.ones(len(numbers), dtype=torch.int64)
    return vision, [[*[IMAGE] * (h * w), 97] for h, w in grids]


def compressed(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Videos that leave out what did not change since the frame before, so that frames differ in length."""
    numbers = [number for row in rows for number in row]
    grids = [film(number) for number in numbers]
    pixels = torch.cat([noise(100 + n, t * h * w, 3 * 4 * 4) for n, (t, h, w) in zip(numbers, grids, strict=True)])
    masks = [noise(200 + n, t, h * w // 4) > -0.5 for n, (t, h, w) in zip(numbers, grids, strict=True)]
    pieces: list[list[int]] = []
    for mask in masks:
        mask[0] = True
        frames = [[*stamp(i), *[VIDEO] * int(frame.sum())] for i, frame in enumerate(mask)]
        pieces.append([*[token for frame in frames for token in (*frame, 98)][:-1], 97])
    vision = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor(grids)}
    vision["video_merge_sizes"] = torch.full((len(numbers),), 2)
    vision["video_compression_mask"] = torch.cat([mask.flatten() for mask in masks])
    return vision, pieces


def video_llama_3() -> Tiny:
    """VideoLLaMA 3: images of any size whose merge is an argument; positions of one row."""
    config = VideoLlama3Config(
        text_config=decoder(model_type="qwen2"),
        vision_config={"model_type": "video_llama_3_vision", **tower(patch_size=4)},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return Tiny(VideoLlama3ForConditionalGeneration(config), stills, has_grid=False)


def shown(made: Tiny, media: Media, *tokens: int, has_grid: bool = True) -> Tiny:
    """The same model, shown other things."""
    return replace(made, images=media, media=tokens, has_grid=has_grid)


BUILDERS: dict[str, Callable[[], Tiny]] = {"video_llama_3": video_llama_3}
VARIANTS: dict[str, Callable[[], Tiny]] = {
    "qwen2_vl video": lambda: shown(qwen2_vl(), films(run), VIDEO),
    "qwen2_5_vl video": lambda: shown(qwen2_5_vl(), films(run, timed=True), VIDEO),
    "qwen2_5_vl image and video": lambda: shown(qwen2_5_vl(), films(run, (0, 2), timed=True), IMAGE, VIDEO),
    "qwen3_vl video": lambda: shown(qwen3_vl(), films(stamped), VIDEO),
    "qwen3_vl image and video": lambda: shown(qwen3_vl(), films(stamped, (0, 2)), IMAGE, VIDEO),
    "qwen3_5 video": lambda: shown(qwen3_5(), films(stamped), VIDEO),
    "ernie4_5_vl_moe video": lambda: shown(ernie4_5_vl_moe(), films(marked, patch=(3 * 4 * 4,), merged=2), VIDEO),
    "glm4v video": lambda: shown(glm4v(), films(enclosed), IMAGE),
    "glm46v video": lambda: shown(glm46v(), films(enclosed), IMAGE),
}
"""More tinies of families that have one already."""


def compressed_videos() -> Tiny:
    """VideoLLaMA 3 with videos, whose tokens are fewer than their features: the library refuses them."""
    return shown(video_llama_3(), compressed, VIDEO, has_grid=False)
