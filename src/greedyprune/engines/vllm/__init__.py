"""greedyprune inside vLLM: tokens of images leave between the projector and the language model.

    vllm serve MODEL --hf-overrides '{"architectures": ["GreedyPruneLlavaForConditionalGeneration"],
        "greedyprune": {"method": "soft_greedyprune", "keep": "25%"}}'

`greedyprune vllm-args MODEL --keep 25%` prints these options. vLLM imports this package by its entry point in each of
its processes and calls `register`. Importing it imports neither vLLM nor torch. docs/vllm.md is for users.
"""

from __future__ import annotations

PREFIX = "GreedyPrune"
"""What stands before the name of an architecture of vLLM in the name of the pruned one."""

HOMES: dict[str, str] = {
    "Gemma3ForConditionalGeneration": "gemma3:Gemma3",
    "Idefics3ForConditionalGeneration": "idefics3:Idefics3",
    "InternVLForConditionalGeneration": "internvl:InternVL",
    "LlavaForConditionalGeneration": "llava:Llava",
    "Mistral3ForConditionalGeneration": "mistral3:Mistral3",
    "Qwen2VLForConditionalGeneration": "qwen:Qwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "qwen:Qwen25VL",
    "Qwen3VLForConditionalGeneration": "qwen:Qwen3VL",
    "SmolVLMForConditionalGeneration": "idefics3:SmolVLM",
}
"""Architecture of vLLM -> module and class here that prunes its images."""

NEWLINES = "a newline ends each row of an image's tokens, and leaves with them: how many leave is known too late"
REFUSED: dict[str, str] = {
    "LlavaNextForConditionalGeneration": NEWLINES,
    "LlavaNextVideoForConditionalGeneration": NEWLINES,
    "LlavaOnevisionForConditionalGeneration": NEWLINES,
    "InternVLChatModel": "only InternVL in the format of transformers can: its folder or id ends in -HF or -hf",
}
"""Architecture of vLLM -> why its images cannot be pruned there."""


def register() -> None:
    """Make the pruned architectures known to vLLM. It imports none of them, and may be called many times."""
    from vllm import ModelRegistry  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]

    for name, home in HOMES.items():
        ModelRegistry.register_model(PREFIX + name, f"{__name__}.{home}")
