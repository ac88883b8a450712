"""Models of well-known shapes with random weights: their time is that of the real ones, their answers mean nothing.

The widths are those of the published configs. `layers` cuts the depth of the decoder; its width is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from greedyprune.bench.calls import Unmeasurable
from greedyprune.models.flops import Sizes


@dataclass(frozen=True)
class Shape:
    """The numbers of a config that decide what a model costs."""

    model_type: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tokens: int = 576
    """Visual tokens of an image of 672 x 672 pixels."""


def _text(kind: str, width: int, layers: int, inner: int, heads: int, groups: int, words: int, **more: Any) -> Any:
    return {
        "model_type": kind,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": words,
        "max_position_embeddings": 32768,
        **more,
    }


def _clip(width: int, layers: int, inner: int, heads: int, **more: Any) -> Any:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
        **more,
    }


LARGE = _clip(1024, 24, 4096, 16)
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
QWEN_TEXT, QWEN3_TEXT = "qwen2_5_vl_text", "qwen3_vl_text"
QWEN_MARKS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
INTERLEAVED = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
SHAPES: dict[str, Shape] = {
    "llava-small": Shape(
        "llava", _text("llama", 1024, 12, 2816, 16, 16, 32064), _clip(512, 6, 2048, 8), {"image_token_index": 32000}
    ),
    "qwen2.5-vl-small": Shape(
        "qwen2_5_vl",
        _text(QWEN_TEXT, 1024, 8, 3072, 8, 2, 32064, bos_token_id=1, eos_token_id=2, **MROPE),
        {"hidden_size": 320, "depth": 4, "num_heads": 4, "intermediate_size": 1280, "out_hidden_size": 1024},
        dict(zip(QWEN_MARKS, range(32000, 32004), strict=True)),
    ),
    "llava-1.5-7b": Shape("llava", _text("llama", 4096, 32, 11008, 32, 32, 32064), LARGE, {"image_token_index": 32000}),
    "llava-1.5-13b": Shape(
        "llava", _text("llama", 5120, 40, 13824, 40, 40, 32064), LARGE, {"image_token_index": 32000}
    ),
    "llava-next-7b": Shape(
        "llava_next",
        _text("llama", 4096, 32, 11008, 32, 32, 32064),
        LARGE,
        {"image_token_index": 32000, "image_grid_pinpoints": PINPOINTS},
        tokens=2928,
    ),
    "qwen2.5-vl-3b": Shape(
        "qwen2_5_vl",
        _text(QWEN_TEXT, 2048, 36, 11008, 16, 2, 151936, tie_word_embeddings=True, **MROPE),
        {"hidden_size": 1280, "out_hidden_size": 2048},
        {"tie_word_embeddings": True},
    ),
    "qwen2.5-vl-7b": Shape(
        "qwen2_5_vl",
        _text(QWEN_TEXT, 3584, 28, 18944, 28, 4, 152064, **MROPE),
        {"hidden_size": 1280, "out_hidden_size": 3584},
    ),
    "qwen2.5-vl-32b": Shape(
        "qwen2_5_vl",
        _text(QWEN_TEXT, 5120, 64, 27648, 40, 8, 152064, **MROPE),
        {"hidden_size": 1280, "intermediate_size": 3456, "out_hidden_size": 5120},
    ),
    "qwen3-vl-8b": Shape(
        "qwen3_vl",
        _text(QWEN3_TEXT, 4096, 36, 12288, 32, 8, 151936, head_dim=128, rope_parameters=INTERLEAVED),
        {"out_hidden_size": 4096},
        tokens=441,
    ),
    "internvl3-8b": Shape(
        "internvl", _text("qwen2", 3584, 28, 18944, 28, 4, 151674), {}, {"tie_word_embeddings": False}, tokens=256
    ),
}


def config_of(name: str, layers: int | None = None) -> Any:
    """The config of this name, with all of its decoder layers or the first ones. Raises Unmeasurable for other names.

    config_of("qwen2.5-vl-7b", layers=4)
    """
    if name not in SHAPES:
        raise Unmeasurable(f"{name!r} is no shape that is known here: choose one of {', '.join(SHAPES)}.")
    shape = SHAPES[name]
    depth = shape.text["num_hidden_layers"]
    if layers is not None and layers > depth:
        raise Unmeasurable(f"{name} has {depth} decoder layers, so it cannot be cut to {layers} of them.")
    text = {**shape.text, "num_hidden_layers": layers or depth}
    return AutoConfig.for_model(shape.model_type, text_config=text, vision_config=dict(shape.vision), **shape.more)


@dataclass(frozen=True)
class Memory:
    """Bytes that a model takes."""

    weights: int
    cache: int
    """Of the KV cache of a prompt, dense."""

    @property
    def total(self) -> int:
        """With the caches of two runs, since one is made while the last is still there."""
        return self.weights + 2 * self.cache


def memory_of(config: Any, dtype: torch.dtype, tokens: int) -> Memory:
    """Count before anything is allocated. `tokens`: of all prompts of the batch, vision included."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    size = torch.finfo(dtype).bits // 8
    sizes, depth = Sizes.of(config), config.get_text_config().num_hidden_layers
    weights = sum(weight.numel() for weight in model.parameters())
    return Memory(size * weights, 2 * size * tokens * depth * sizes.groups * sizes.head)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated on a device now; None if it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def build(config: Any, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """The model of a config with random weights, made where it runs."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(seed)
        return AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
