"""Idefics3 and SmolVLM: an image is its tiles and a view of the whole, with a marker in front of each."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from vllm.model_executor.models.idefics3 import (
    Idefics3DummyInputsBuilder,
    Idefics3ForConditionalGeneration,
    Idefics3MultiModalProcessor,
    Idefics3ProcessingInfo,
)
from vllm.model_executor.models.smolvlm import SmolVLMForConditionalGeneration, SmolVLMProcessingInfo
from vllm.multimodal import MULTIMODAL_REGISTRY

from greedyprune.engines.vllm.between import PrunesBetweenText
from greedyprune.engines.vllm.between_prompts import PrunesPromptsBetweenText
from greedyprune.engines.vllm.choosing import Grid
from greedyprune.engines.vllm.worker import square


def side_of(config: Any) -> int:
    """The number of tokens along a side of one view."""
    return config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor


def grid_of(n: int, config: Any) -> Grid | None:
    """The grid of an image's n tokens; None if it has several views."""
    return square(n) if n == side_of(config) ** 2 else None


class Idefics3Processor(PrunesPromptsBetweenText, Idefics3MultiModalProcessor):
    """Idefics3's processor, which writes a placeholder for every token that stays and for the text between them."""

    def grid(self, n: int, item: Mapping[str, Any]) -> Grid | None:
        return grid_of(n, self.info.get_hf_config())

    @cached_property
    def largest(self) -> int:
        own = self.info.get_hf_processor()
        side = own.image_processor.size["longest_edge"]
        return self.info.get_num_image_tokens(image_width=side, image_height=side, processor=own, mm_kwargs={})


class PrunesViews(PrunesBetweenText):
    """A mixin in front of the model classes of this family."""

    config: Any

    def flat(self, fields: Mapping[str, Any]) -> dict[str, list[int]]:
        views = [int(each) for each in fields["num_patches"]]
        return {"pixel_values": views, "pixel_attention_mask": views}

    def sizes(self, fields: Mapping[str, Any], images: int) -> list[int]:
        return [int(each) * side_of(self.config) ** 2 for each in fields["num_patches"]]

    def grids(self, fields: Mapping[str, Any], sizes: Sequence[int]) -> Sequence[Grid | None]:
        return [grid_of(n, self.config) for n in sizes]


@MULTIMODAL_REGISTRY.register_processor(
    Idefics3Processor, info=Idefics3ProcessingInfo, dummy_inputs=Idefics3DummyInputsBuilder
)
class Idefics3(PrunesViews, Idefics3ForConditionalGeneration):
    """Idefics3, whose encoder hands out the rows that stay, and those of the text between them."""


@MULTIMODAL_REGISTRY.register_processor(
    Idefics3Processor, info=SmolVLMProcessingInfo, dummy_inputs=Idefics3DummyInputsBuilder
)
class SmolVLM(PrunesViews, SmolVLMForConditionalGeneration):
    """SmolVLM, which is the same with another processor."""
