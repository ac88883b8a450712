"""Tiny models whose decoders mix layers of linear attention with layers of full attention (Qwen3.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)

from tinies.multimodal_positions import EXPERTS, QWEN3_ROPE, QWEN3_TOWER, QWEN_IDS, patches, token_types
from tinies.words import Tiny, decoder

LAYERS = ["linear_attention", "full_attention"] * 2
"""So that cuts before layers 1 and 2 fall in front of either kind."""


def mixed(**more: Any) -> dict[str, Any]:
    """The config of a decoder with both kinds of layers, positions turning half of each head."""
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    linear |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    rope = {**QWEN3_ROPE, "partial_rotary_factor": 0.5}
    return decoder(head_dim=16, layer_types=LAYERS, rope_parameters=rope, **linear, **more)


def patient(model: Any) -> Any:
    """The model with a memory of 10 to 100 tokens, so that dropped tokens matter long after.

    As drawn it is about one token; and decays that multiply to e^-1000 in a chunk cost float32 three more digits.
    """
    for name, weight in model.named_parameters():
        if name.endswith("A_log"):
            weight.data = torch.linspace(0.01, 0.1, len(weight)).log()
    return model


def qwen3_5() -> Tiny:
    """Qwen3.5: gated delta rule and gated full attention."""
    config = Qwen3_5Config(text_config=mixed(), vision_config=QWEN3_TOWER, **QWEN_IDS)
    return Tiny(patient(Qwen3_5ForConditionalGeneration(config)), patches, token_types)


def qwen3_5_moe() -> Tiny:
    """The same with a mixture of experts in every layer."""
    experts = {**EXPERTS, "shared_expert_intermediate_size": 32}
    config = Qwen3_5MoeConfig(text_config=mixed(**experts), vision_config=QWEN3_TOWER, **QWEN_IDS)
    return Tiny(patient(Qwen3_5MoeForConditionalGeneration(config)), patches, token_types)


BUILDERS: dict[str, Callable[[], Tiny]] = {"qwen3_5": qwen3_5, "qwen3_5_moe": qwen3_5_moe}
VARIANTS: dict[str, Callable[[], Tiny]] = {}
