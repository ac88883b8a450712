"""Tiny models whose images all have one size (LLaVA-1.5)."""

from __future__ import annotations

from transformers import LlavaConfig, LlavaForConditionalGeneration

from tinies.words import IMAGE, Tiny, decoder, squares, tower


def llava() -> Tiny:
    """LLaVA-1.5: a CLIP tower, 4 x 4 tokens per image."""
    vision = tower(model_type="clip_vision_model", num_hidden_layers=3, image_size=24, patch_size=6, projection_dim=32)
    config = LlavaConfig(
        vision_config=vision,
        text_config=decoder(model_type="llama"),
        image_token_id=IMAGE,
        image_token_index=IMAGE,
        image_seq_length=16,
        vision_feature_layer=-2,
    )
    return Tiny(LlavaForConditionalGeneration(config), squares(side=24, tokens=16))


BUILDERS = {"llava": llava}
