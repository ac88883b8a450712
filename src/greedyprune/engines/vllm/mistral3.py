"""Mistral 3 (Mistral Small 3.1 and later): images of any size, and a break behind each row of an image's tokens."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from vllm.model_executor.models.mistral3 import (
    Mistral3DummyInputsBuilder,
    Mistral3ForConditionalGeneration,
    Mistral3MultiModalProcessor,
    Mistral3ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from greedyprune.engines.vllm.between import PrunesBetweenText
from greedyprune.engines.vllm.between_prompts import PrunesPromptsBetweenText
from greedyprune.engines.vllm.choosing import Grid


def grid_of(pixels: Any, config: Any) -> Grid:
    """The grid of an image's tokens. (3, height, width)"""
    side = config.vision_config.patch_size * config.spatial_merge_size
    return 1, pixels.shape[-2] // side, pixels.shape[-1] // side


class Mistral3Processor(PrunesPromptsBetweenText, Mistral3MultiModalProcessor):
    """Mistral 3's processor, which writes a placeholder for every token that stays and for every break."""

    def grid(self, n: int, item: Mapping[str, Any]) -> Grid | None:
        return grid_of(item["pixel_values"].data, self.info.get_hf_config())

    @cached_property
    def largest(self) -> int:
        side, _ = self.info.get_image_size_with_most_features()
        return self.info.get_num_image_tokens(image_width=side, image_height=side)


@MULTIMODAL_REGISTRY.register_processor(
    Mistral3Processor, info=Mistral3ProcessingInfo, dummy_inputs=Mistral3DummyInputsBuilder
)
class Mistral3(PrunesBetweenText, Mistral3ForConditionalGeneration):
    """Mistral 3, whose encoder hands out the rows that stay, and those of the breaks between them."""

    def sizes(self, fields: Mapping[str, Any], images: int) -> list[int]:
        return [h * w for _, h, w in (grid_of(each, self.config) for each in fields["pixel_values"])]

    def grids(self, fields: Mapping[str, Any], sizes: Sequence[int]) -> Sequence[Grid | None]:
        return [grid_of(each, self.config) for each in fields["pixel_values"]]
