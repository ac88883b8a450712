"""Decoders that cannot be pruned are refused when pruning is asked for, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlavaConfig, LlavaForConditionalGeneration

import greedyprune as gp
from tiny import IMAGE, decoder, tower


def llava(**text: Any) -> LlavaForConditionalGeneration:
    """A tiny LLaVA with another decoder."""
    vision = tower(model_type="clip_vision_model", num_hidden_layers=3, image_size=24, patch_size=6, projection_dim=32)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=decoder(**text), image_token_id=IMAGE, image_token_index=IMAGE)
    )


def test_sliding_windows_are_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match=r"sliding window of 8 tokens .* sliding_window=None"):
        gp.prune(llava(model_type="mistral", sliding_window=8), keep=4)
    types = ["sliding_attention", "full_attention"] * 2
    with pytest.raises(NotImplementedError, match="sliding window of 16"):
        gp.prune(llava(model_type="qwen2", use_sliding_window=True, sliding_window=16, layer_types=types), keep=4)
    for text in ({"model_type": "mistral", "sliding_window": None}, {"model_type": "qwen2", "sliding_window": 16}):
        gp.prune(llava(**text), keep=4).remove()  # no layer uses a window: fine


def test_flex_attention_is_refused_with_the_remedy() -> None:
    model = llava(model_type="llama")
    model.get_decoder().config._attn_implementation = "flex_attention"
    with pytest.raises(NotImplementedError, match=r"set_attn_implementation\('sdpa'\)"):
        gp.prune(model, keep=4)


def test_models_that_read_no_images_are_refused() -> None:
    model = llava(model_type="llama").get_decoder()
    with pytest.raises(ValueError, match="a 'llama' model reads no images"):
        gp.prune(model, keep=4)
