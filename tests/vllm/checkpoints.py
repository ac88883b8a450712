"""Checkpoints with random weights, of classes that no bundled one has: model, processor and tokenizer, made offline.

Their tokenizer is that of the bundled Qwen2.5-VL, with a token of its own for every marker that a family needs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GenerationConfig,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from greedyprune.testbed import FOLDERS

WRITTEN: dict[str, Any] = json.loads((FOLDERS["qwen"] / "config.json").read_text())
UNREAD = ("layer_types", "model_type", "max_window_layers", "use_sliding_window", "sliding_window")
TEXT = {key: value for key, value in WRITTEN["text_config"].items() if key not in UNREAD}
TEXT |= {"num_hidden_layers": 3, "initializer_range": 0.2}
"""A decoder with M-RoPE."""
PLAIN = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
"""A decoder whose positions count tokens."""
IMAGE_OF_QWEN = "<|vision_start|> <|image_pad|> <|vision_end|>"
COLOURS = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


def written(name: str, folder: Path) -> Path:
    """Write the checkpoint of this name."""
    shutil.rmtree(folder, ignore_errors=True)
    model = MAKERS[name](folder)
    model.generation_config = GenerationConfig.from_pretrained(FOLDERS["qwen"])
    model.save_pretrained(folder)
    if name == "gemma3":
        as_vllm_reads(folder)
    return folder


def as_vllm_reads(folder: Path) -> None:
    """Write weights as vLLM 0.32 reads them, in float32.

    It looks for those of a CLIP or SigLIP tower below `vision_tower.vision_model.`, where transformers 5 writes
    `vision_tower.`.
    """
    path, old, new = folder / "model.safetensors", "vision_tower.", "vision_tower.vision_model."
    save_file({key.replace(old, new, 1): w.float() for key, w in load_file(path).items()}, path, {"format": "pt"})


def qwen2_vl(folder: Path) -> Any:
    """Qwen2-VL, with the processor of Qwen2.5-VL, which is the same."""
    shutil.copytree(FOLDERS["qwen"], folder, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    vision = {**TOWER, "embed_dim": 96, "hidden_size": 128, "mlp_ratio": 2}
    torch.manual_seed(0)
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=TEXT, vision_config=vision, **TOKENS_OF_QWEN))


def qwen3_vl(folder: Path) -> Any:
    """Qwen3-VL, with DeepStack in two layers."""
    shutil.copytree(FOLDERS["qwen"], folder, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    path = folder / "processor_config.json"
    named = path.read_text().replace("Qwen2_5_VLProcessor", "Qwen3VLProcessor")
    path.write_text(named.replace("Qwen2VLVideoProcessor", "Qwen3VLVideoProcessor"))
    rope = {**TEXT["rope_parameters"], "mrope_interleaved": True}
    vision = {
        **TOWER, "hidden_size": 96, "out_hidden_size": 128, "intermediate_size": 192, "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    text = {**TEXT, "head_dim": 32, "rope_parameters": rope}
    torch.manual_seed(0)
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **TOKENS_OF_QWEN))


TOWER = {
    "depth": 3, "num_heads": 4, "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "initializer_range": 0.1,
}  # fmt: skip
TOKENS_OF_QWEN = {key: value for key, value in WRITTEN.items() if key.endswith("_token_id")}


def internvl(folder: Path) -> Any:
    """InternVL, whose images have one to four tiles of 25 tokens and, if there are several, a view of the whole."""
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = tokens(folder, "<IMG_CONTEXT>", video_token="<video>", **named)
    side = {"height": 70, "width": 70}
    pictures = GotOcr2ImageProcessor(size=side, crop_to_patches=True, min_patches=1, max_patches=4, **COLOURS)
    InternVLProcessor(
        pictures, tokenizer, InternVLVideoProcessor(size=side), image_seq_length=25,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)  # fmt: skip
    vision = {
        "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192,
        "image_size": [70, 70], "patch_size": [7, 7], "initializer_range": 0.1, "layer_scale_init_value": 1.0,
    }  # fmt: skip
    config = InternVLConfig(
        text_config={**PLAIN, "model_type": "qwen2"}, vision_config=vision, image_seq_length=25, downsample_ratio=0.5,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"), tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return InternVLForConditionalGeneration(config)


def tokens(folder: Path, image: str, *markers: str, **named: str) -> Any:
    """The tokenizer with further markers. `image`: what a chat has for an image; `named`: attributes of the tokenizer.

    Markers stand where the bundled tokenizer has tokens without a use.
    """
    folder.mkdir(parents=True)
    plain = json.loads((FOLDERS["qwen"] / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = plain["model"]["vocab"]
    unused = [word for word in vocabulary if word.startswith("<unused")]
    for marker in dict.fromkeys((*markers, *named.values())):
        number = vocabulary.pop(marker if marker in vocabulary else unused.pop(0))
        vocabulary[marker] = number
        plain["added_tokens"].append({
            "id": number, "content": marker, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        })  # fmt: skip
    plain["added_tokens"].sort(key=lambda each: each["id"])
    (folder / "tokenizer.json").write_text(json.dumps(plain))
    settings = json.loads((FOLDERS["qwen"] / "tokenizer_config.json").read_text())
    settings = {key: value for key, value in settings.items() if not key.startswith(("image_", "video_", "vision_"))}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | named))
    template = (FOLDERS["qwen"] / "chat_template.jinja").read_text()
    assert IMAGE_OF_QWEN in template
    (folder / "chat_template.jinja").write_text(template.replace(IMAGE_OF_QWEN, image))
    return AutoTokenizer.from_pretrained(folder)


def gemma3(folder: Path) -> Any:
    """Gemma 3 with images of 144 tokens, and windows of 64 tokens in two of its three layers."""
    tokenizer = tokens(
        folder, "\n<start_of_image>", *("\n" * count for count in (1, 2, 3, 4)), boi_token="<start_of_image>",
        eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip
    pictures = Gemma3ImageProcessor(size={"height": 168, "width": 168}, **COLOURS)
    Gemma3Processor(
        pictures, tokenizer, image_seq_length=144, chat_template=tokenizer.chat_template
    ).save_pretrained(folder)  # fmt: skip
    vision = {
        "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192,
        "image_size": 168, "patch_size": 7, "vision_use_head": False,
    }  # fmt: skip
    text = {
        **TEXT, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64, "rope_parameters": None,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=144, tie_word_embeddings=False,
        **{f"{each}_token_index": tokenizer.convert_tokens_to_ids(getattr(tokenizer, f"{each}_token"))
           for each in ("boi", "eoi", "image")},
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model


def idefics3(folder: Path) -> Any:
    """Idefics3, whose images have up to nine tiles of 16 tokens and a view of the whole, with text between them."""
    return tiled(folder, Idefics3Processor, Idefics3ImageProcessor, Idefics3Config, Idefics3ForConditionalGeneration)


def smolvlm(folder: Path) -> Any:
    """SmolVLM, which is Idefics3 with a processor for videos as well."""
    kinds = SmolVLMImageProcessor, SmolVLMConfig, SmolVLMForConditionalGeneration
    return tiled(folder, SmolVLMProcessor, *kinds, video_processor=SmolVLMVideoProcessor(**COLOURS))


def tiled(folder: Path, processing: Any, pictures: Any, config: Any, model: Any, **more: Any) -> Any:
    """A model of Idefics3's kind. `more`: what its processor holds besides the tokenizer and that of images."""
    rows = [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
    markers = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "\n", "\n\n")
    tokenizer = tokens(folder, "<image>", *markers, *rows)
    size = {"size": {"longest_edge": 168}, "max_image_size": {"longest_edge": 56}, "do_image_splitting": True}
    processing(
        image_processor=pictures(**size, **COLOURS), tokenizer=tokenizer, image_seq_len=16,
        chat_template=tokenizer.chat_template, **more,
    ).save_pretrained(folder)  # fmt: skip
    vision = {
        "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192,
        "image_size": 56, "patch_size": 7, "initializer_range": 0.1,
    }  # fmt: skip
    torch.manual_seed(0)
    return model(config(
        text_config={**PLAIN, "model_type": "llama"}, vision_config=vision, scale_factor=2, pad_token_id=0,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), tie_word_embeddings=False,
    ))  # fmt: skip


def mistral3(folder: Path) -> Any:
    """Mistral 3 with images of any size, of about 144 tokens, in rows with a break behind each."""
    tokenizer = tokens(folder, "[IMG]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    pictures = PixtralImageProcessor(size={"longest_edge": 196}, patch_size={"height": 14, "width": 14}, **COLOURS)
    PixtralProcessor(
        pictures, tokenizer, patch_size=7, spatial_merge_size=2, chat_template=tokenizer.chat_template
    ).save_pretrained(folder)
    vision = {
        "model_type": "pixtral", "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 24,
        "intermediate_size": 192, "image_size": 196, "patch_size": 7, "initializer_range": 0.1, "hidden_act": "gelu",
    }  # fmt: skip
    text = {**PLAIN, "model_type": "mistral", "head_dim": 32, "sliding_window": None}
    config = Mistral3Config(
        text_config=text, vision_config=vision, spatial_merge_size=2, tie_word_embeddings=False,
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )  # fmt: skip
    torch.manual_seed(0)
    return Mistral3ForConditionalGeneration(config)


MAKERS: dict[str, Callable[[Path], Any]] = {
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "gemma3": gemma3,
    "idefics3": idefics3,
    "mistral3": mistral3,
    "smolvlm": smolvlm,
}
"""Name of a checkpoint -> what writes its processor into a folder and makes its model."""
