"""Tiny models whose outer part builds the attention masks, or whose decoder has sliding windows (Gemma, Mistral)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from tinies.words import BEGIN, END, IMAGE, VIDEO, Rows, Tiny, decoder, noise, squares, tower

SHORT, LONG = 12, 512
"""Windows: one that no prompt with an image fits into, and one that every prompt and answer fit into."""

SLIDING, FULL = "sliding_attention", "full_attention"

UNTIED = {"tie_word_embeddings": False}
"""Unlike the real Gemma models, which scale their embeddings up: random weights would only repeat the last token."""


def image_types(ids: Tensor) -> dict[str, Tensor]:
    """Which tokens are images: Gemma 3 lets the tokens of an image see each other, those behind them too."""
    return {"token_type_ids": (ids == IMAGE).long()}


def gemma3(window: int = LONG) -> Tiny:
    """Gemma 3: three sliding layers to each full one (five in the real model), images seen in both directions."""
    text = decoder(
        head_dim=8, query_pre_attn_scalar=8, sliding_window=window, layer_types=[SLIDING, SLIDING, FULL, SLIDING]
    )
    config = Gemma3Config(
        text_config=text,
        vision_config=tower(image_size=32, patch_size=4),
        mm_tokens_per_image=16,
        image_token_index=IMAGE,
        boi_token_index=BEGIN,
        eoi_token_index=END,
        **UNTIED,
    )
    return Tiny(Gemma3ForConditionalGeneration(config), squares(side=32, tokens=16), image_types)


def all_prefix(ids: Tensor) -> dict[str, Tensor]:
    """The token types of a PaliGemma prompt: 0, as of all that is no answer to train on, so all see each other."""
    return {"token_type_ids": torch.zeros_like(ids)}


class Prefixed(Tiny):
    """A model that reads its prompt in both directions, and what comes after it in one."""

    def continued(self, inputs: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
        """The inputs of a prompt with more text after it, which has the token type 1."""
        types = inputs["token_type_ids"]
        types = torch.nn.functional.pad(types, (0, ids.shape[1] - types.shape[1]), value=1)
        return {**super().continued(inputs, ids), "token_type_ids": types}


def bare(images: Callable[[Rows], Any]) -> Callable[[Rows], Any]:
    """The same images without border tokens around them."""

    def without(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        vision, pieces = images(rows)
        return vision, [piece[1:-1] for piece in pieces]

    return without


def paligemma(text_type: str = "gemma", **text: Any) -> Tiny:
    """PaliGemma: a prompt, image and words, is read in both directions; positions start at 1; no border tokens."""
    vision = tower(model_type="siglip_vision_model", image_size=16, patch_size=4, vision_use_head=False)
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=decoder(model_type=text_type, head_dim=8, **text),
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
        **UNTIED,
    )
    images = bare(squares(side=16, tokens=16))
    return Prefixed(PaliGemmaForConditionalGeneration(config), images, all_prefix)


SIZES = ((8, 8), (6, 8), (8, 10), (6, 6))
"""Patches of a picture, rows and columns."""


def placed(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Images of several sizes, padded to the most patches, with the place (x, y) of each patch (Gemma 4)."""
    numbers = [number for row in rows for number in row]
    grids = [SIZES[number % len(SIZES)] for number in numbers]
    most = max(h * w for h, w in SIZES)
    pixels = torch.zeros(len(numbers), most, 3 * 4 * 4)
    places = torch.full((len(numbers), most, 2), -1)
    for i, (number, (h, w)) in enumerate(zip(numbers, grids, strict=True)):
        pixels[i, : h * w] = noise(number, h * w, 3 * 4 * 4)
        places[i, : h * w] = torch.cartesian_prod(torch.arange(h), torch.arange(w)).flip(-1)
    vision = {"pixel_values": pixels, "image_position_ids": places}
    return vision, [[BEGIN, *[IMAGE] * (h * w // 4), END] for h, w in grids]


def media_types(ids: Tensor) -> dict[str, Tensor]:
    """Which tokens are images, as Gemma 4 asks for."""
    return {"mm_token_type_ids": (ids == IMAGE).long()}


def gemma4(window: int = LONG, per_layer: int = 0, shared: int = 0, layers: int = 4) -> Tiny:
    """Gemma 4, images of any size: sliding and full layers in turn, which differ in head size.

    Without `per_layer` as the large models are: in sliding layers an image is seen in both directions, in full ones
    values are keys. With `per_layer` as the small ones are: plain causal masks, an input of that width for every
    layer, and the last `shared` layers read the keys and values of earlier ones.
    """
    kind = {} if per_layer else {"use_bidirectional_attention": "vision", "attention_k_eq_v": True}
    text = decoder(
        num_hidden_layers=layers,
        head_dim=8,
        global_head_dim=16,
        num_global_key_value_heads=None if per_layer else 1,
        vocab_size_per_layer_input=128,
        hidden_size_per_layer_input=per_layer,
        num_kv_shared_layers=shared,
        sliding_window=window,
        layer_types=[SLIDING, FULL] * (layers // 2),
        **kind,
    )
    vision = tower(patch_size=4, pooling_kernel_size=2, head_dim=8, num_key_value_heads=4, position_embedding_size=16)
    config = Gemma4Config(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        boi_token_id=BEGIN,
        eoi_token_id=END,
        **UNTIED,
    )
    return Tiny(Gemma4ForConditionalGeneration(config), placed, media_types, has_grid=False)


def windowed_llava(**text: Any) -> Tiny:
    """LLaVA-1.5 with a decoder that has sliding layers."""
    vision = tower(model_type="clip_vision_model", num_hidden_layers=3, image_size=24, patch_size=6, projection_dim=32)
    config = LlavaConfig(
        vision_config=vision,
        text_config=decoder(**text),
        image_token_id=IMAGE,
        image_token_index=IMAGE,
        image_seq_length=16,
        vision_feature_layer=-2,
    )
    return Tiny(LlavaForConditionalGeneration(config), squares(side=24, tokens=16))


def gemma3_llava(window: int = LONG) -> Tiny:
    """LLaVA-1.5 with Gemma 3's decoder: norms of every head's queries and keys, a scale of its own, two rotations."""
    kinds = [SLIDING, SLIDING, FULL, SLIDING]
    text = {"model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 8, **UNTIED}
    return windowed_llava(sliding_window=window, layer_types=kinds, **text)


BREAK = 108
"""Ends a row of a Pixtral image; the last row ends with `END`."""

SIDES = ((32, 32), (24, 32), (32, 16), (24, 24))
"""Pixels of a picture, rows and columns, in patches of 4 that are merged 2 x 2."""


def with_breaks(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Images of several sizes, padded to the largest, with a token at the end of each row (Pixtral, Mistral 3)."""
    numbers = [number for row in rows for number in row]
    sizes = [SIDES[number % len(SIDES)] for number in numbers]
    pixels = torch.zeros(len(numbers), 3, max(h for h, _ in sizes), max(w for _, w in sizes))
    for i, (number, (h, w)) in enumerate(zip(numbers, sizes, strict=True)):
        pixels[i, :, :h, :w] = noise(number, 3, h, w)
    pieces = [[*[*[IMAGE] * (w // 8), BREAK] * (h // 8 - 1), *[IMAGE] * (w // 8), END] for h, w in sizes]
    return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}, pieces


def windowed_mistral3(window: int) -> Tiny:
    """Mistral 3 with a decoder whose layers all slide."""
    config = Mistral3Config(
        vision_config=tower(model_type="pixtral", image_size=32, patch_size=4, head_dim=8),
        text_config=decoder(model_type="mistral", head_dim=8, sliding_window=window),
        image_token_index=IMAGE,
        spatial_merge_size=2,
    )
    return Tiny(Mistral3ForConditionalGeneration(config), with_breaks)


def paligemma2(window: int = LONG) -> Tiny:
    """PaliGemma 2: Gemma 2 as decoder, whose layers slide and do not in turn."""
    return paligemma("gemma2", sliding_window=window, query_pre_attn_scalar=8)


qwen2_window = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": SHORT}
cohere2_window = {"model_type": "cohere2", "sliding_window": SHORT, "layer_types": [SLIDING, SLIDING, SLIDING, FULL]}

BUILDERS: dict[str, Callable[[], Tiny]] = {"gemma3": gemma3, "paligemma": paligemma, "gemma4": gemma4}

VARIANTS: dict[str, Callable[[], Tiny]] = {
    "gemma3 short window": partial(gemma3, SHORT),
    "gemma4 short window": partial(gemma4, SHORT),
    "gemma4 inputs per layer": partial(gemma4, per_layer=8),
    "gemma4 shared keys": partial(gemma4, per_layer=8, shared=2, layers=6),
    "mistral3 short window": partial(windowed_mistral3, SHORT),
    "llava mistral short window": partial(windowed_llava, model_type="mistral", sliding_window=SHORT),
    "llava gemma3": gemma3_llava,
    "llava gemma3 short window": partial(gemma3_llava, SHORT),
    "llava qwen2 mixed window": partial(windowed_llava, layer_types=[SLIDING, FULL, SLIDING, FULL], **qwen2_window),
    "llava qwen2 full first": partial(windowed_llava, layer_types=[FULL, SLIDING, FULL, SLIDING], **qwen2_window),
    "llava cohere2 mixed window": partial(windowed_llava, **cohere2_window),
}
"""Further tiny models of these families, and of families that are built elsewhere, with windows."""

EAGER: dict[str, Callable[[], Tiny]] = {
    "paligemma 2": paligemma2,
    "paligemma 2 short window": partial(paligemma2, SHORT),
}
"""Further tiny models of these families that know eager attention only (Gemma 2, in newer releases)."""
