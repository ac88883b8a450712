"""The front end's part for images with text between their tokens: placeholders for both, and the text as a field."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllm.multimodal.inputs import MultiModalFieldConfig

from greedyprune.engines.vllm.between import BETWEEN, between
from greedyprune.engines.vllm.plan import FIELD
from greedyprune.engines.vllm.processing import PrunesPrompts, mask_of


class PrunesPromptsBetweenText(PrunesPrompts):
    """A mixin in front of the processor of a model whose images have text between their tokens.

    vLLM's own processor must be able to write an image's placeholders before images are processed.
    """

    def contents(self, items: Any, options: Mapping[str, object]) -> list[Any]:
        return self.told(items, options)

    def placeholders(self, content: Any, k: int) -> Any:
        own = mask_of(content)
        first, last = own.index(True), len(own) - own[::-1].index(True)
        text = last - first - sum(own)
        full = content.full[:first] + content.full[first : first + 1] * (k + text) + content.full[last:]
        return replace(content, full=full)

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        """Pixels, plans, and the text between the tokens of each image."""
        data = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        if FIELD in data:
            data[BETWEEN] = [between(each.full, mask_of(each)) for each in self.told(mm_items, hf_kwargs)]
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        """How fields are split into items. The text stays on the CPU."""
        own = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
        return {**own, BETWEEN: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}
