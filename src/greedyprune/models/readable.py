"""The model types of decoders and vision towers that probes can read, and of models that read pages of text."""

from __future__ import annotations

READABLE: tuple[str, ...] = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma3_text",
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    "qwen3_vl_text",
    "qwen3_vl_moe_text",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "glm4v_text",
    "glm4v_moe_text",
    "ernie4_5_vl_moe_text",
    "paddleocr_vl_text",
    "cohere2",
    "lfm2",
    "gemma4_text",
    "molmo2_text",
    "deepseek_v3",
    "granite",
)
"""The model types of decoders whose attention weights, keys and values the probes can compute."""

READABLE_TOWERS: tuple[str, ...] = (
    "clip_vision_model",
    "siglip_vision_model",
    "internvl_vision",
    "smolvlm_vision",
    "idefics3_vision",
    "siglip2_vision_model",
    "pixtral",
    "qwen2_vl_vision",
    "qwen2_5_vl_vision",
    "qwen3_vl_vision",
    "qwen3_vl_moe_vision",
    "qwen3_5_vision",
    "qwen3_5_moe_vision",
    "glm4v_vision",
    "glm4v_moe_vision",
    "ernie4_5_vl_moe_vision",
    "paddleocr_vl_vision",
    "video_llama_3_vision",
    "kimi_k25_vision",
    "gemma4_vision",
    "ovis2_vision",
)
"""The model types of vision towers whose attention weights and keys the probes can compute."""

PAGE_READERS: tuple[str, ...] = (
    "got_ocr2",
    "lighton_ocr",
    "paddleocr_vl",
    "deepseek_ocr2",
    "glm_ocr",
    "granite_docling",
    "hunyuan_vl",
    "minicpm_ocr",
    "qianfan_ocr",
    "unlimited_ocr",
)
"""The model types whose checkpoints read text off pages (OCR). `prune()` warns about these."""
