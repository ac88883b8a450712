"""Family: what has to be known about a model type to prune it, as data; and the ways images lie in a sequence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch

from greedyprune.cues import Attention
from greedyprune.stages import Input, Layer, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.cues import Need


@dataclass(frozen=True)
class ImageTokens:
    """One image of a call: how many visual tokens it has, and their grid where one fits."""

    n: int
    grid: tuple[int, int, int] | None


@dataclass(frozen=True, eq=False)
class Visuals:
    """What a call brought along about its images, whichever way the model received them. Index tensors on the CPU."""

    ids: Tensor
    """(b, q) the token ids of this forward."""
    visual: Tensor
    """(b, q) bool: the placeholders of images."""
    lengths: list[int] | None = None
    """Rows of each feature tensor, where the tower ran before the forward (generate in transformers >= 5.23)."""
    pixels: Tensor | None = None
    """`pixel_values` otherwise."""
    grids: Tensor | None = None
    """(images, 3) `image_grid_thw` where the call has it."""
    positions: Tensor | None = None
    """(3 or 4, b, q) multimodal position ids, for models that have them."""

    def runs(self) -> list[tuple[int, int, int]]:
        """The unbroken runs of placeholders. -> [(row, first column, end column)]"""
        found: list[tuple[int, int, int]] = []
        for row, flags in enumerate(self.visual.int()):
            padded = flags.new_zeros(flags.shape[0] + 2)
            padded[1:-1] = flags
            edges = padded.diff().nonzero()[:, 0]
            found += [(row, int(first), int(end)) for first, end in edges.view(-1, 2)]
        return found


Layout: TypeAlias = Callable[[Any, Visuals], list[ImageTokens]]
"""(config, visuals) -> the images of a call in the order of their placeholders."""


Fold: TypeAlias = Callable[[Any, "Tensor", "Tensor | None"], "Tensor"]
"""(config, a value of each of the tower's rows, the images' patch grids) -> the values by visual token, in the order
of the placeholders. (images, rows, ...) or (rows, ...) -> (n of all images, patches per token, ...)"""


@dataclass(frozen=True)
class Tower:
    """A family's vision tower: where it is, and which of its rows become which visual token."""

    place: str
    """Where the outer model has it."""
    fold: Fold
    """Which rows become which token; held by tests that change one row and see which token changes."""
    class_token: str | None = None
    """The name of its class token, which stands in front of the patches, where it has one."""
    normed: bool = True
    """Whether a projector that reads the last layer reads it through the tower's final norm."""


@dataclass(frozen=True)
class Family:
    """One model type: how its images lie in the sequence. Everything else is found on the model itself."""

    model_type: str
    """`config.model_type`, the name users know."""
    layout: Layout
    """How long each image is and on which grid."""
    image_token: str = "image_token_id"
    """The config attribute with the placeholder's token id."""
    stages: tuple[type[Stage], ...] = (Input, Layer)
    """Where tokens may be cut; every pair of family and stage listed here is held by the family proofs."""
    deepstack: tuple[str, str] | None = None
    """The text model's arguments with the mask and the features that are added to visual rows after early layers."""
    norm: str = "norm"
    """Where the text model's final norm is."""
    tower: Tower | None = None
    """Its vision tower, where methods may ask what is seen in there."""
    tiles: bool = False
    """Whether an image may be several tiles, whose tokens together lie on no grid."""
    note: str = ""
    """What a user should know, shown beside the family."""

    def gives(self, need: Need) -> bool:
        """Whether methods can have this of the family's models, built with the towers and decoders they come with."""
        if not need.in_tower:
            return True
        by_class = isinstance(need, Attention) and need.kind == "cls"
        return self.tower is not None and (not by_class or self.tower.class_token is not None)


def square_patches(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Every image has the same number of tokens: a square of patches, seldom a class token too (CLIP, SigLIP)."""
    if visuals.lengths is not None:
        lengths = visuals.lengths
    else:
        assert visuals.pixels is not None
        images = visuals.pixels.shape[0]
        lengths = [int(visuals.visual.sum()) // images] * images
    side = config.vision_config.image_size // config.vision_config.patch_size
    # "full" keeps the class token, where the tower has one (CLIP has, SigLIP has not).
    expected = {side * side, side * side + (config.vision_feature_select_strategy == "full")}
    for length in lengths:
        if length not in expected:
            raise ValueError(
                f"an image of this call has {length} visual tokens where the model's config says {max(expected)}: if "
                "the prompt is prefilled in chunks, leave out prefill_chunk_size: a chunk holds only part of an image."
            )
    return [ImageTokens(n, (1, side, side) if n == side * side else None) for n in lengths]


def positioned_grids(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Images of any size whose multimodal positions (M-RoPE) say the grid of their merged patches (Qwen-VL type)."""
    if visuals.lengths is not None:
        lengths = visuals.lengths
    else:
        assert visuals.grids is not None
        merge = config.vision_config.spatial_merge_size
        lengths = [int(n) for n in visuals.grids.prod(1) // merge**2]
    rows, columns = visuals.visual.nonzero(as_tuple=True)
    images: list[ImageTokens] = []
    start = 0
    for n in lengths:
        grid = None
        if n and start < rows.numel() and (columns[start] == 0 or columns[start:][:n][-1] == visuals.ids.shape[1] - 1):
            raise ValueError(
                "an image of this call touches an end of its sequence, without the marker that stands there: if the "
                "prompt is prefilled in chunks, leave out prefill_chunk_size: a chunk holds only part of an image."
            )
        if visuals.positions is not None and 0 < n <= rows.numel() - start:
            mine = visuals.positions[-3:, rows[start : start + n], columns[start : start + n]]
            t, h, w = (len(set(cast("list[int]", axis.tolist()))) for axis in mine)  # pyright: ignore[reportUnknownMemberType]
            grid = (t, h, w) if t * h * w == n else None
        images.append(ImageTokens(n, grid))
        start += n
    return images


def runs_of_tiles(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """One unbroken run per image, all its tiles in it, since markers stand around every image (InternVL type)."""
    vision = config.vision_config
    tokens = [round(vision.image_size[i] // vision.patch_size[i] * config.downsample_ratio) for i in (0, 1)]
    tile = tokens[0] * tokens[1]
    images: list[ImageTokens] = []
    for row, first, end in visuals.runs():
        if (end - first) % tile:
            raise ValueError(
                f"prompt {row} has {end - first} image placeholders in a row, no multiple of a tile's {tile}: "
                "build text and images with the model's own processor, and do not prefill in chunks."
            )
        images.append(ImageTokens(end - first, (1, *tokens) if end - first == tile else None))
    return images


def runs_until_global(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Many runs per image, one per tile, the last one for the whole image (SmolVLM and Idefics3).

    The token in front of a run says what the run is: a row and column, or the marker of the whole image. A prompt's
    last run always is a whole image, so its marker is known, and every run behind that marker ends an image.
    """
    images: list[ImageTokens] = []
    rows: dict[int, list[tuple[int, int]]] = {}
    for row, first, end in visuals.runs():
        rows.setdefault(row, []).append((first, end))
    side = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
    for row, runs in rows.items():
        if any(end - first != side * side for first, end in runs):
            raise ValueError(
                f"a run of image placeholders in prompt {row} has not the {side * side} tokens of a tile: "
                "build text and images with the model's own processor, and do not prefill in chunks."
            )
        markers = [int(visuals.ids[row, first - 1]) if first else -1 for first, _ in runs]
        n = 0
        for marker in markers:
            n += side * side
            if marker == markers[-1]:
                images.append(ImageTokens(n, (1, side, side) if n == side * side else None))
                n = 0
    return images


def one_by_one(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Every patch is a token; the projector reads the first row too, or not: a class token (CLIP and SigLIP)."""
    patches = values[:, 1:] if config.vision_feature_select_strategy == "default" else values
    return patches.flatten(0, 1)[:, None]


def shuffled_blocks(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Every square block of a tile's patches is a token, tokens in raster order (SmolVLM and Idefics3)."""
    return _blocks(values, config.scale_factor)


def shuffled_blocks_behind_class(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """The same, behind a class token that the projector does not read (InternVL type)."""
    return _blocks(values[:, 1:], round(1 / config.downsample_ratio))


def _blocks(values: Tensor, side: int) -> Tensor:
    """(tiles, patches, ...) -> (tokens, side * side, ...)"""
    across, rest = math.isqrt(values.shape[1]) // side, values.shape[2:]
    return values.reshape(-1, across, side, across, side, *rest).transpose(2, 3).reshape(-1, side**2, *rest)


def merged_runs(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """Patches lie merged already: each run of four, or of another square number, is a token (Qwen3-VL type)."""
    return values.reshape(-1, config.vision_config.spatial_merge_size**2, *values.shape[1:])


def merged_windows(config: Any, values: Tensor, grids: Tensor | None) -> Tensor:
    """The same, but the tower's rows go window by window, each in raster order (Qwen2.5-VL type)."""
    assert grids is not None
    vision = config.vision_config
    side = vision.window_size // vision.patch_size // vision.spatial_merge_size
    order: list[Tensor] = []
    for frames, height, width in cast("list[list[int]]", grids.tolist()):  # pyright: ignore[reportUnknownMemberType]
        rows, columns = height // vision.spatial_merge_size, width // vision.spatial_merge_size
        windows = torch.arange(rows)[:, None] // side * columns + torch.arange(columns) // side
        windows = windows + torch.arange(frames)[:, None, None] * rows * columns
        order.append(windows.flatten().argsort(stable=True) + sum(map(len, order)))
    runs = merged_runs(config, values, grids)
    return torch.empty_like(runs).index_copy_(0, torch.cat(order).to(runs.device), runs)
