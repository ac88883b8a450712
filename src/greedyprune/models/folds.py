"""Folds group the rows of a vision tower by the visual token that they become, for methods that read the tower."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def one_by_one(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Every patch is a token (CLIP and SigLIP). With the strategy "default", the class token is left out."""
    strategy = getattr(config, "vision_feature_select_strategy", "full")
    return (values[:, 1:] if strategy == "default" else values).flatten(0, 1)[:, None]


def one_by_one_behind_class(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `one_by_one`, after a class token that the projector does not read (ViP-LLaVA)."""
    return values[:, 1:].flatten(0, 1)[:, None]


def shuffled_blocks(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Every square block of a tile's patches is a token. Tokens are in raster order (SmolVLM and Idefics3)."""
    return _blocks(values, config.scale_factor)


def shuffled_blocks_behind_class(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `shuffled_blocks`, after a class token that the projector does not read (InternVL type)."""
    return _blocks(values[:, 1:], round(1 / config.downsample_ratio))


def downsampled_blocks(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `shuffled_blocks`, with the side under another name (Aya Vision, Command A Vision)."""
    return _blocks(values, config.downsample_factor)


def strided_blocks(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `shuffled_blocks`, with the side in the tower's config (Ovis2)."""
    return _blocks(values, config.vision_config.hidden_stride)


def pooled_blocks(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Every square block of patches is averaged to a token. The number of tokens says how large it is (Gemma 3)."""
    return _blocks(values, math.isqrt(values.shape[1] // config.mm_tokens_per_image))


def _blocks(values: Tensor, side: int) -> Tensor:
    """Group the patches of each tile into square blocks. (tiles, patches, ...) -> (tokens, side * side, ...)"""
    across, rest = math.isqrt(values.shape[1]) // side, values.shape[2:]
    return values.reshape(-1, across, side, across, side, *rest).transpose(2, 3).reshape(-1, side**2, *rest)


def packed(pack: Callable[..., Any], values: Tensor, tiles: list[Tensor], *sizes: Any, **options: Any) -> Tensor:
    """Send the rows of all tiles the way that a model's `pack_image_features` sends its tokens (LLaVA-NeXT type).

    (tiles, rows, ...) -> (tokens without newlines, 1, ...). `pack` is that method, `tiles` the tokens of each image's
    tiles, the others are its further arguments. A channel of its own marks the newlines. Where the model interpolates
    between tokens, so are the values.
    """
    count, rest = tiles[0].shape[1], values.shape[2:]
    rows = values[:, -count:].flatten(2) if rest else values[:, -count:, None]  # a class token comes before the others
    rows = torch.nn.functional.pad(rows, (0, 1))
    if options.get("image_newline") is not None:
        options["image_newline"] = torch.nn.functional.pad(rows.new_zeros(rows.shape[-1] - 1), (0, 1), value=1.0)
    found = torch.cat(list(pack(_apart(rows, [each.shape[0] for each in tiles]), *sizes, **options)[0]))
    return cast("Any", found[found[:, -1] == 0, :-1]).unflatten(1, (1, *rest))


def merged_runs(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """The patches of one token follow each other: each run of `spatial_merge_size ** 2` is a token (Qwen3-VL type)."""
    return values.reshape(-1, config.vision_config.spatial_merge_size**2, *values.shape[1:])


def merged_frames(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `merged_runs`, and two frames of a clip that follow each other become one (ERNIE 4.5 VL)."""
    runs = merged_runs(config, values, grids)
    assert grids is not None
    shapes = _numbers(grids)
    if all(frames == 1 for frames, _, _ in shapes):
        return runs
    side, found = config.vision_config.spatial_merge_size, list["Tensor"]()
    clips = _apart(runs, [frames * height * width // side**2 for frames, height, width in shapes])
    for clip, (frames, _, _) in zip(clips, shapes, strict=True):
        each = cast("Tensor", cast("Any", clip).unflatten(0, (frames, -1)))
        first, second = (each, each) if frames == 1 else (each[: frames // 2 * 2 : 2], each[1::2])
        found.append(torch.cat([first, second], 2).flatten(0, 1))
    return torch.cat(found)


def merged_alike(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `merged_runs`, with a side for every image of the call, which is the same for all (VideoLLaMA 3)."""
    assert grids is not None
    sides: set[int] = set(cast("Any", grids).tolist())
    if len(sides) > 1:
        raise ValueError(f"images merged by {sorted(sides)} patches in one call have no rows in common: pass one size.")
    return values.reshape(-1, sides.pop() ** 2, *values.shape[1:])


def merged_blocks(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Square blocks of an image of any size, whose rows the tower has in raster order (PaddleOCR-VL, Kimi K2.5)."""
    assert grids is not None
    vision = config.vision_config
    side = vision.spatial_merge_size if hasattr(vision, "spatial_merge_size") else vision.merge_kernel_size[0]
    return _any_blocks(values, _numbers(grids), side)


def merged_lines(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `merged_blocks`, of images whose sizes are in pixels, (images, 2) (Pixtral's tower)."""
    patch, side = config.vision_config.patch_size, getattr(config, "spatial_merge_size", 1)
    sizes: Any = _numbers(grids) if isinstance(grids, torch.Tensor) else grids
    shapes = [[1, height // patch, width // patch] for height, width in sizes]
    return _any_blocks(values.flatten(0, 1), shapes, side)


def padded_blocks(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `merged_blocks`, of images padded to equally many rows, with their sizes in patches (LFM2-VL)."""
    assert grids is not None
    shapes = [[1, *shape] for shape in _numbers(grids)]
    rows = [each[: height * width] for each, (_, height, width) in zip(values, shapes, strict=True)]
    return _any_blocks(torch.cat(rows), shapes, config.downsample_factor)


def placed_blocks(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `padded_blocks`, of patches whose places (x, y) the tower is told; (-1, -1) is padding (Gemma 4)."""
    assert grids is not None
    side, found = config.vision_config.pooling_kernel_size, list["Tensor"]()
    for number, places in enumerate(grids.cpu()):  # read once, whatever the number of images
        real = (places >= 0).all(-1).nonzero()[:, 0]
        x, y = (places[real] // side).unbind(-1)
        found.append(real[(y * (x.max() + 1) + x).argsort(stable=True)] + number * places.shape[0])
    return cast("Any", values.flatten(0, 1)[torch.cat(found).to(values.device)]).unflatten(0, (-1, side**2))


def _numbers(grids: Tensor) -> list[list[int]]:
    """The grids or sizes as numbers. (images, c)"""
    return cast("Any", grids).tolist()


def _apart(rows: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """Rows in parts of these sizes. (n, ...)"""
    return cast("Any", rows).split(sizes)


def _any_blocks(values: Tensor, shapes: list[list[int]], side: int) -> Tensor:
    """Group the patches of images in raster order into square blocks. (rows, ...) -> (tokens, side * side, ...)"""
    found, rest = list["Tensor"](), values.shape[1:]
    for rows, (frames, high, wide) in zip(_apart(values, [t * h * w for t, h, w in shapes]), shapes, strict=True):
        blocks = rows.reshape(frames, high // side, side, wide // side, side, *rest).transpose(2, 3)
        found.append(blocks.reshape(-1, side**2, *rest))
    return torch.cat(found)


def merged_windows(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Like `merged_runs`, but the tower orders its rows window by window, each in raster order (Qwen2.5-VL type)."""
    assert grids is not None
    vision = config.vision_config
    side = vision.window_size // vision.patch_size // vision.spatial_merge_size
    order: list[Tensor] = []
    for frames, height, width in _numbers(grids):
        rows, columns = height // vision.spatial_merge_size, width // vision.spatial_merge_size
        t, h, w = (torch.arange(size, device="cpu") for size in (frames, rows, columns))
        windows = t[:, None, None] * rows * columns + h[:, None] // side * columns + w // side
        order.append(windows.flatten().argsort(stable=True) + sum(map(len, order)))
    runs = merged_runs(config, values, grids)
    return torch.empty_like(runs).index_copy_(0, torch.cat(order).to(runs.device), runs)
