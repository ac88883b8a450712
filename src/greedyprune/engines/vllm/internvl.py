"""InternVL in the format of transformers: an image is all its tiles in one run, between two markers."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import PromptUpdateDetails

from greedyprune.engines.vllm.choosing import Grid
from greedyprune.engines.vllm.processing import PrunesPrompts
from greedyprune.engines.vllm.worker import PrunesImages


def tile_of(config: Any) -> Grid:
    """The grid of the tokens of one tile."""
    vision = config.vision_config
    h, w = (round(vision.image_size[i] // vision.patch_size[i] * config.downsample_ratio) for i in (0, 1))
    return 1, h, w


def grid_of(n: int, config: Any) -> Grid | None:
    """The grid of an image's n tokens; None if it has several tiles."""
    tile = tile_of(config)
    return tile if tile[1] * tile[2] == n else None


class InternVLProcessor(PrunesPrompts, InternS1MultiModalProcessor):
    """InternVL's processor, which writes a placeholder for every token that stays."""

    def grid(self, n: int, item: Mapping[str, Any]) -> Grid | None:
        return grid_of(n, self.info.get_hf_config())

    @cached_property
    def largest(self) -> int:
        return self.info.get_max_image_tokens()

    def contents(self, items: Any, options: Mapping[str, object]) -> list[Any]:
        own = self.info.get_hf_processor(**options)
        full = [own.start_image_token_id, own.image_token_id, own.end_image_token_id]
        return [PromptUpdateDetails.select_token_id(full, own.image_token_id)] * items.get_count("image")


@MULTIMODAL_REGISTRY.register_processor(
    InternVLProcessor, info=InternS1ProcessingInfo, dummy_inputs=InternS1DummyInputsBuilder
)
class InternVL(PrunesImages, InternS1ForConditionalGeneration):
    """InternVL, whose encoder hands out the rows that stay."""

    def flat(self, fields: Mapping[str, Any]) -> dict[str, list[int]]:
        return {"pixel_values": [int(each) for each in fields.get("image_num_patches", ())]}

    def sizes(self, fields: Mapping[str, Any], images: int) -> list[int]:
        _, h, w = tile_of(self.config)
        if "image_num_patches" not in fields:
            return [each.shape[0] for each in fields["image_embeds"]]
        return [int(each) * h * w for each in fields["image_num_patches"]]

    def grids(self, fields: Mapping[str, Any], sizes: Sequence[int]) -> Sequence[Grid | None]:
        return [grid_of(n, self.config) for n in sizes]
