"""Tiny models whose images are one tile, or several, of one fixed size (LLaVA-1.5, Aya Vision, Ovis2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    CLIPVisionConfig,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from tinies.words import BEGIN, END, IMAGE, VIDEO, VOCABULARY, Rows, Tiny, decoder, noise, squares, tower

GLOBAL, TILE, BREAK = 104, 105, 106
"""Markers of an image's whole view, of its first tile, and behind each of its tiles."""
GRID, COLUMN, ROW = 104, 105, 106
"""Ovis2's markers behind an image's whole view, and between its tiles."""
RUN = [IMAGE] * 16
"""The tokens of one tile."""


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


SIZES = ((16, 16), (16, 24), (64, 64), (8, 40))
"""Height and width of pictures 0, 1, 2, 3 of a Pixtral tower, whose patches are 4 x 4 pixels."""


def llava_pixtral() -> Tiny:
    """LLaVA with Pixtral's tower: images of any size, a break that is text behind each row of patches."""
    vision = tower(model_type="pixtral", image_size=64, patch_size=4)
    config = LlavaConfig(
        vision_config={**vision, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        text_config=decoder(model_type="mistral", sliding_window=None),
        image_token_id=IMAGE,
        image_token_index=IMAGE,
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )

    def images(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        numbers = [number for row in rows for number in row]
        sizes = [SIZES[number % 4] for number in numbers]
        pixels = torch.zeros(len(sizes), 3, max(h for h, _ in sizes), max(w for _, w in sizes))
        for place, (number, (h, w)) in enumerate(zip(numbers, sizes, strict=True)):
            pixels[place, :, :h, :w] = noise(number, 3, h, w)
        lines = [[[*[IMAGE] * (w // 4), BREAK] for _ in range(h // 4)] for h, w in sizes]
        pieces = [[*[token for line in each for token in line][:-1], END] for each in lines]
        return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}, pieces

    return Tiny(LlavaForConditionalGeneration(config), images)


def vipllava() -> Tiny:
    """ViP-LLaVA: the projector reads several layers of the tower side by side."""
    vision = tower(model_type="clip_vision_model", num_hidden_layers=4, image_size=24, patch_size=6, projection_dim=32)
    config = VipLlavaConfig(
        vision_config=vision,
        text_config=decoder(model_type="llama"),
        image_token_index=IMAGE,
        image_seq_length=16,
        vision_feature_layers=[-2, -3, 1],
    )
    return Tiny(VipLlavaForConditionalGeneration(config), squares(side=24, tokens=16))


def fast_vlm() -> Tiny:
    """FastVLM: the tower gives a map of channels, each of whose places is a token. SAM's stands in for that of timm."""
    vision = tower(model_type="sam_vision_model", output_channels=32, image_size=32, patch_size=8, mlp_dim=64)
    config = FastVlmConfig(
        vision_config={**vision, "window_size": 3, "global_attn_indexes": [1]},
        text_config=decoder(model_type="qwen2"),
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    return Tiny(FastVlmForConditionalGeneration(config), squares(side=32, tokens=16))


Images = Callable[[Rows], tuple[dict[str, Tensor], list[list[int]]]]


def stacked(side: int, piece: Callable[[int], list[int]]) -> Images:
    """The tiles of all images in one stack: picture 2 has two tiles and its whole view, the others a whole view."""

    def images(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        views = [(number, 3 if number == 2 else 1) for row in rows for number in row]
        pixels = [noise(10 * number + view, 3, side, side) for number, count in views for view in range(count)]
        return {"pixel_values": torch.stack(pixels)}, [piece(count) for _, count in views]

    return images


def cohere() -> dict[str, Any]:
    """A decoder of Command's: its third layer sees everything; the others have a window, which no prompt fills here.

    The real scale of its logits would leave them too flat for proofs.
    """
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    return decoder(model_type="cohere2", layer_types=kinds, sliding_window=512, logit_scale=1.0)


def aya_vision() -> Tiny:
    """Aya Vision: a marker in front of every tile, another one in front of the whole view, which comes last."""

    def piece(count: int) -> list[int]:
        tiles = [token for tile in range(count - 1) for token in (TILE + tile, *RUN)]
        return [BEGIN, *tiles, GLOBAL, *RUN, END]

    config = AyaVisionConfig(
        vision_config=tower(model_type="siglip_vision_model", image_size=32, patch_size=4, vision_use_head=False),
        text_config=cohere(),
        image_token_index=IMAGE,
        alignment_intermediate_size=64,
        tie_word_embeddings=False,
    )
    return Tiny(AyaVisionForConditionalGeneration(config), stacked(32, piece), has_grid=False)


def cohere2_vision() -> Tiny:
    """Command A Vision: a line break behind every tile."""
    config = Cohere2VisionConfig(
        vision_config=tower(model_type="siglip_vision_model", image_size=32, patch_size=4, vision_use_head=False),
        text_config=cohere(),
        image_token_id=IMAGE,
        alignment_intermediate_size=64,
        tie_word_embeddings=False,
    )
    images = stacked(32, lambda count: [BEGIN, *[*RUN, BREAK] * count, END])
    return Tiny(Cohere2VisionForConditionalGeneration(config), images, has_grid=False)


def got_ocr2() -> Tiny:
    """GOT-OCR2: a SAM tower, whose output is convolved down 4 x 4; all tiles of an image in one run."""
    vision = {"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 64, "patch_size": 4, "window_size": 6, "global_attn_indexes": [1], "mlp_dim": 64}
    config = GotOcr2Config(
        vision_config=vision,
        text_config=decoder(model_type="qwen2"),
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    images = stacked(64, lambda count: [BEGIN, *RUN * count, END])
    return Tiny(GotOcr2ForConditionalGeneration(config), images, has_grid=False)


def ovis2() -> Tiny:
    """Ovis2: a token is a mixture of visual words; the markers around tiles have visual words of their own."""

    def piece(count: int) -> list[int]:
        tiles = [*RUN, ROW, *RUN] if count > 1 else []
        return [BEGIN, *RUN, GRID, *tiles, END]

    vision = tower(image_size=32, patch_size=4, vocab_size=64, hidden_stride=2, num_visual_indicator_tokens=5)
    vision["num_hidden_layers"] = 1  # its mixtures are faint beside the text, so that rounding in the tower shows
    config = Ovis2Config(
        vision_config=vision,
        text_config=decoder(model_type="qwen2"),
        image_token_id=IMAGE,
        visual_indicator_token_ids=[BEGIN, GRID, COLUMN, ROW, END],
        vocab_size=VOCABULARY,
        hidden_size=32,
        tie_word_embeddings=False,
    )
    return Tiny(Ovis2ForConditionalGeneration(config), stacked(32, piece), has_grid=False)


def pooled(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Two tiles for every image, since the images of a call must have equally many. (images, 2, 3, 24, 24)"""
    numbers = [number for row in rows for number in row]
    pixels = torch.stack([noise(number, 2, 3, 24, 24) for number in numbers])
    return {"pixel_values": pixels}, [[IMAGE] * 18 for _ in numbers]


def perception_lm() -> Tiny:
    """PerceptionLM: 2 x 2 patches are pooled into one token, no markers. CLIP stands in for the tower of timm."""
    vision = tower(image_size=24, patch_size=4, projection_dim=32, model_args={"embed_dim": 32})
    config = PerceptionLMConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=decoder(model_type="llama"),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        projector_pooling_ratio=2,
    )
    return Tiny(PerceptionLMForConditionalGeneration(config), pooled, has_grid=False)


BUILDERS: dict[str, Callable[[], Tiny]] = {
    "llava": llava,
    "vipllava": vipllava,
    "fast_vlm": fast_vlm,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
    "got_ocr2": got_ocr2,
    "ovis2": ovis2,
    "perception_lm": perception_lm,
}
VARIANTS: dict[str, Callable[[], Tiny]] = {"llava pixtral": llava_pixtral}
