"""Folds group the rows of a vision tower by the visual token that they become, for methods that read the tower."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from torch import Tensor


def one_by_one(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Every patch is a token (CLIP and SigLIP). With the strategy "default", the class token is left out."""
    patches = values[:, 1:] if config.vision_feature_select_strategy == "default" else values
    return patches.flatten(0, 1)[:, None]


def shuffled_blocks(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Every square block of a tile's patches is a token. Tokens are in raster order (SmolVLM and Idefics3)."""
    return _blocks(values, config.scale_factor)


def shuffled_blocks_behind_class(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `shuffled_blocks`, after a class token that the projector does not read (InternVL type)."""
    return _blocks(values[:, 1:], round(1 / config.downsample_ratio))


def _blocks(values: Tensor, side: int) -> Tensor:
    """Group the patches of each tile into square blocks. (tiles, patches, ...) -> (tokens, side * side, ...)"""
    across, rest = math.isqrt(values.shape[1]) // side, values.shape[2:]
    return values.reshape(-1, across, side, across, side, *rest).transpose(2, 3).reshape(-1, side**2, *rest)


def merged_runs(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """The patches of one token follow each other: each run of `spatial_merge_size ** 2` is a token (Qwen3-VL type)."""
    return values.reshape(-1, config.vision_config.spatial_merge_size**2, *values.shape[1:])


def merged_windows(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `merged_runs`, but the tower orders its rows window by window, each in raster order (Qwen2.5-VL type)."""
    assert grids is not None
    vision = config.vision_config
    side = vision.window_size // vision.patch_size // vision.spatial_merge_size
    order: list[Tensor] = []
    for frames, height, width in cast("list[list[int]]", grids.tolist()):  # pyright: ignore[reportUnknownMemberType]
        rows, columns = height // vision.spatial_merge_size, width // vision.spatial_merge_size
        t, h, w = (torch.arange(size, device="cpu") for size in (frames, rows, columns))
        windows = t[:, None, None] * rows * columns + h[:, None] // side * columns + w // side
        order.append(windows.flatten().argsort(stable=True) + sum(map(len, order)))
    runs = merged_runs(config, values, grids)
    return torch.empty_like(runs).index_copy_(0, torch.cat(order).to(runs.device), runs)
