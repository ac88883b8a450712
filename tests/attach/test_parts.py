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


def test_what_cannot_be_taken_back_is_not_cut_early() -> None:
    early = gp.Layer(2, early=True)
    types = ["sliding_attention", "full_attention"] * 2
    mixed = llava(model_type="qwen2", use_sliding_window=True, sliding_window=16, layer_types=types)
    for model in (llava(model_type="mistral", sliding_window=8), mixed):
        with pytest.raises(NotImplementedError, match=r"sliding_attention cannot give back .* use Layer\(2\) without"):
            gp.prune(model, keep=4, at=early)
        gp.prune(model, keep=4, at=gp.Layer(2)).remove()
    for text in ({"model_type": "mistral", "sliding_window": None}, {"model_type": "qwen2", "sliding_window": 16}):
        gp.prune(llava(**text), keep=4, at=early).remove()  # no layer uses a window: fine


def test_kinds_of_layers_that_are_not_known_are_refused_by_name() -> None:
    model = llava(model_type="llama")
    model.get_decoder().config.layer_types = ["chunked_attention", "full_attention"] * 2
    with pytest.raises(NotImplementedError, match="of type chunked_attention are not supported, only full_attention"):
        gp.prune(model, keep=4)


def test_flex_attention_is_refused_with_the_remedy() -> None:
    model = llava(model_type="llama")
    model.get_decoder().config._attn_implementation = "flex_attention"
    with pytest.raises(NotImplementedError, match=r"set_attn_implementation\('sdpa'\)"):
        gp.prune(model, keep=4)


def test_models_that_read_no_images_are_refused() -> None:
    model = llava(model_type="llama").get_decoder()
    with pytest.raises(ValueError, match="a 'llama' model reads no images"):
        gp.prune(model, keep=4)
