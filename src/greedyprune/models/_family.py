"""Family: what has to be known about a model type to prune it, as data; and the ways images lie in a sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from greedyprune.stages import Input, Layer, Stage

if TYPE_CHECKING:
    from torch import Tensor


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
    class_token: tuple[str, str] | None = None
    """Where the outer model has its vision tower, and the name of the tower's class token; only where the tokens of an
    image are the tower's patches, one by one."""
    note: str = ""
    """What a user should know, shown beside the family."""


def square_patches(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Every image has the same number of tokens: a square of patches, without a class token (CLIP-type towers)."""
    if visuals.lengths is not None:
        lengths = visuals.lengths
    else:
        assert visuals.pixels is not None
        images = visuals.pixels.shape[0]
        lengths = [int(visuals.visual.sum()) // images] * images
    side = config.vision_config.image_size // config.vision_config.patch_size
    expected = side * side + (config.vision_feature_select_strategy == "full")
    for length in lengths:
        if length != expected:
            raise ValueError(
                f"an image of this call has {length} visual tokens where the model's config says {expected}: if the "
                "prompt is prefilled in chunks, leave out prefill_chunk_size: a chunk holds only part of an image."
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
