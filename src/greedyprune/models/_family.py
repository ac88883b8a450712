"""Family: what has to be known about a model type to prune it, as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from greedyprune.stages import Input, Layer, Stage

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageTokens:
    """One image of a call: how many visual tokens it has, and their grid where one fits."""

    n: int
    grid: tuple[int, int, int] | None


@dataclass(frozen=True)
class Visuals:
    """What a call brought along about its images, whichever way the model received them."""

    features: Sequence[Tensor] | None
    """One (n_i, d) tensor per image where the vision tower ran before the forward (transformers >= 5.23 generate)."""
    pixels: Tensor | None
    """The raw `pixel_values` otherwise."""
    total: int
    """How many placeholder tokens the prompts of this call hold, all images together."""


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
    note: str = ""
    """What a user should know, shown beside the family."""


def square_patches(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Every image has the same number of tokens: a square of patches, without a class token (CLIP-type towers)."""
    if visuals.features is not None:
        lengths = [feature.shape[0] for feature in visuals.features]
    else:
        assert visuals.pixels is not None
        images = visuals.pixels.shape[0]
        lengths = [visuals.total // images] * images
    side = config.vision_config.image_size // config.vision_config.patch_size
    expected = side * side + (config.vision_feature_select_strategy == "full")
    for length in lengths:
        if length != expected:
            raise ValueError(
                f"an image of this call has {length} visual tokens where the model's config says {expected}: if the "
                "prompt is prefilled in chunks, leave out prefill_chunk_size: a chunk holds only part of an image."
            )
    return [ImageTokens(n, (1, side, side) if n == side * side else None) for n in lengths]
