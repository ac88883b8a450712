"""LLaVA 1.5 and models of its class: one view of an image, and positions that count the tokens that stay."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from greedyprune.engines.vllm.choosing import Grid
from greedyprune.engines.vllm.eyes import Eyes, Place
from greedyprune.engines.vllm.processing import PrunesPrompts
from greedyprune.engines.vllm.worker import PrunesImages, square


class LlavaProcessor(PrunesPrompts, LlavaMultiModalProcessor):
    """LLaVA's processor, which writes a placeholder for every token that stays."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if (tower := self.info.get_hf_config().vision_config.model_type) == "pixtral":
            raise ValueError(
                f"greedyprune: a {tower!r} tower writes tokens between the rows of an image, which cannot be kept in "
                "order in vLLM: leave out greedyprune for this model."
            )

    def grid(self, n: int, item: Mapping[str, Any]) -> Grid | None:
        return square(n)

    def sizes(self, images: Any, options: Mapping[str, Any]) -> Callable[[], list[int]] | None:
        return lambda: [self.info.get_max_image_tokens()] * len(images)  # every image is scaled to one size


@MULTIMODAL_REGISTRY.register_processor(LlavaProcessor, info=LlavaProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder)
class Llava(PrunesImages, LlavaForConditionalGeneration):
    """LLaVA, whose encoder hands out the rows that stay."""

    reads_tower = True

    def sizes(self, fields: Mapping[str, Any], images: int) -> list[int]:
        vision = self.config.vision_config
        return [(vision.image_size // vision.patch_size) ** 2] * images

    def grids(self, fields: Mapping[str, Any], sizes: Sequence[int]) -> Sequence[Grid | None]:
        return [square(n) for n in sizes]

    def eyes(self) -> Eyes:
        layers: Any = self.vision_tower.vision_model.encoder.layers

        def states(layer: int | None) -> Place:
            return layers[-1 if layer is None else layer], True

        return Eyes(self.tower, [each.self_attn for each in layers], states)
