"""Tiny GLM models, which stand one token for images and for frames of videos alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
)

from tinies.multimodal_positions import MARKED_IDS, QWEN_TOWER, VIDEO_BEGIN, VIDEO_END, patches
from tinies.words import IMAGE, Tiny, decoder

GLM_TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "image_size": 32, **QWEN_TOWER}


def glm_types(ids: Tensor) -> dict[str, Tensor]:
    """Image tokens are video (2) between the markers of a video, images (1) elsewhere."""
    inside = (ids == VIDEO_BEGIN).cumsum(1) > (ids == VIDEO_END).cumsum(1)
    return {"mm_token_type_ids": (ids == IMAGE).long() * (1 + inside.long())}


def rope(share: float, *section: int) -> dict[str, Any]:
    """Rotary positions that turn a share of each head, in sections of time, height and width."""
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(section), "partial_rotary_factor": share}


def glm4v() -> Tiny:
    """GLM-4.1V."""
    config = Glm4vConfig(text_config=decoder(rope_parameters=rope(1.0, 1, 1, 2)), vision_config=GLM_TOWER, **MARKED_IDS)
    return Tiny(Glm4vForConditionalGeneration(config), patches, glm_types)


def glm46v() -> Tiny:
    """GLM-4.6V: the decoder and the tower of GLM-4.1V."""
    text = {"model_type": "glm4v_text", **decoder(rope_parameters=rope(1.0, 1, 1, 2))}
    config = Glm46VConfig(text_config=text, vision_config={"model_type": "glm4v_vision", **GLM_TOWER}, **MARKED_IDS)
    return Tiny(Glm46VForConditionalGeneration(config), patches, glm_types)


def glm4v_moe() -> Tiny:
    """GLM-4.5V: a mixture of experts behind the first decoder layer, positions turning half of each head."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32}
    text = decoder(head_dim=16, rope_parameters=rope(0.5, 1, 1, 2), **experts)
    config = Glm4vMoeConfig(text_config=text, vision_config=GLM_TOWER, **MARKED_IDS)
    return Tiny(Glm4vMoeForConditionalGeneration(config), patches, glm_types)


BUILDERS: dict[str, Callable[[], Tiny]] = {"glm4v": glm4v, "glm46v": glm46v, "glm4v_moe": glm4v_moe}
VARIANTS: dict[str, Callable[[], Tiny]] = {}
