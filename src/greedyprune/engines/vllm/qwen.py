"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size, and M-RoPE."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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


class Qwen2VLProcessor(PrunesQwenPrompts, Qwen2VLMultiModalProcessor):
    """Qwen2-VL's processor, which writes a placeholder for every token that stays."""


class Qwen25VLProcessor(PrunesQwenPrompts, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's processor, which does the same."""


class Qwen3VLProcessor(PrunesQwenPrompts, Qwen3VLMultiModalProcessor):
    """Qwen3-VL's processor, which does the same."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2VLProcessor, info=Qwen2VLProcessingInfo, dummy_inputs=Qwen2VLDummyInputsBuilder
)
class Qwen2VL(PrunesMRoPE, Qwen2VLForConditionalGeneration):
    """Qwen2-VL, whose encoder hands out the rows that stay, with their places."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen25VLProcessor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class Qwen25VL(PrunesMRoPE, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL, whose encoder hands out the rows that stay, with their places."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLProcessor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class Qwen3VL(PrunesMRoPE, Qwen3VLForConditionalGeneration):
    """Qwen3-VL, whose encoder hands out the rows that stay, with their places. DeepStack's rows are cut alike."""

    def judged(self, rows: Tensor) -> Tensor:
        return rows[:, : self.visual_dim]
