"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size, and M-RoPE."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import ImageProcessorItems

from greedyprune.engines.vllm.eyes import Eyes, Place
from greedyprune.engines.vllm.mrope import PrunesMRoPE
from greedyprune.engines.vllm.processing import PrunesPrompts
from greedyprune.engines.vllm.worker import grids_of

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.engines.vllm.choosing import Grid


class PrunesQwenPrompts(PrunesPrompts):
    """A mixin in front of the processors of this family."""

    positions = "original"

    def grid(self, n: int, item: Mapping[str, Any]) -> Grid | None:
        merge = self.info.get_hf_config().vision_config.spatial_merge_size
        return grids_of(item["image_grid_thw"].data, merge)[0]

    def sizes(self, images: Any, options: Mapping[str, Any]) -> Callable[[], list[int]] | None:
        if not isinstance(images, ImageProcessorItems):  # embeddings, which may come without their grids
            return None

        def count() -> list[int]:
            sizes = [images.get_image_size(number) for number in range(len(images))]
            more = {"image_processor": self.info.get_image_processor(**options), "mm_kwargs": options}
            return [
                self.info.get_num_image_tokens(image_width=each.width, image_height=each.height, **more)
                for each in sizes
            ]

        return count

    @cached_property
    def largest(self) -> int:
        return self.info.get_max_image_tokens()


class Qwen2VLProcessor(PrunesQwenPrompts, Qwen2VLMultiModalProcessor):
    """Qwen2-VL's processor, which writes a placeholder for every token that stays."""


class Qwen25VLProcessor(PrunesQwenPrompts, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's processor, which does the same."""


class Qwen3VLProcessor(PrunesQwenPrompts, Qwen3VLMultiModalProcessor):
    """Qwen3-VL's processor, which does the same."""


class ReadsBlocks(PrunesMRoPE):
    """A mixin in front of a model whose tower has Qwen2.5-VL's blocks and merger."""

    reads_tower = True

    def eyes(self) -> Eyes:
        visual = cast("Any", self).visual
        blocks, merger = visual.blocks, visual.merger

        def states(layer: int | None) -> Place:
            """A block and the merger are called past their hooks. Their norms are not."""
            if layer is None or layer + 1 == len(blocks):
                return merger.ln_q, False
            return blocks[layer + 1].norm1, False

        return Eyes(self.tower, [each.attn for each in blocks], states)


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2VLProcessor, info=Qwen2VLProcessingInfo, dummy_inputs=Qwen2VLDummyInputsBuilder
)
class Qwen2VL(PrunesMRoPE, Qwen2VLForConditionalGeneration):
    """Qwen2-VL, whose encoder hands out the rows that stay, with their places."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen25VLProcessor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class Qwen25VL(ReadsBlocks, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL, whose encoder hands out the rows that stay, with their places."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLProcessor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class Qwen3VL(PrunesMRoPE, Qwen3VLForConditionalGeneration):
    """Qwen3-VL, whose encoder hands out the rows that stay, with their places. DeepStack's rows are cut alike."""

    def judged(self, rows: Tensor) -> Tensor:
        return rows[:, : self.visual_dim]
