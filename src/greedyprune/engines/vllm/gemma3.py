"""Gemma 3: an image of one size, with newlines and markers around its tokens."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vllm.model_executor.models.gemma3_mm import (
    Gemma3DummyInputsBuilder,
    Gemma3ForConditionalGeneration,
    Gemma3MultiModalProcessor,
    Gemma3ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing.processor import replace_token_matches

from greedyprune.engines.vllm.choosing import Grid
from greedyprune.engines.vllm.processing import PrunesPrompts, shortened
from greedyprune.engines.vllm.worker import PrunesImages, square

REMEDY = """switch pan and scan off by --mm-processor-kwargs '{"do_pan_and_scan": false}'"""
"""What helps if an image has crops. In transformers each crop is chosen from by itself."""


class Gemma3Processor(PrunesPrompts, Gemma3MultiModalProcessor):
    """Gemma 3's processor, which writes a placeholder for every token that stays."""

    def marks(self) -> list[int]:
        return [self.info.get_hf_config().boi_token_index]

    def grid(self, n: int, item: Mapping[str, Any]) -> Grid | None:
        return square(n)

    def sizes(self, images: Any, options: Mapping[str, Any]) -> Callable[[], list[int]] | None:
        return lambda: [self.info.get_hf_config().mm_tokens_per_image] * len(images)

    def contents(self, items: Any, options: Mapping[str, object]) -> list[Any]:
        return self.told(items, options)

    def placeholders(self, content: Any, k: int) -> Any:
        return shortened(content, k, REMEDY)

    def whole(self, prompt: Sequence[int], contents: list[Any] | None, images: int) -> tuple[list[int], list[int]]:
        """The same, with newlines of the prompt and of its images joined, as the tokenizer and vLLM join them."""
        tokens, number = super().whole(prompt, contents, images)
        if contents is None:
            return tokens, number
        vocabulary = self.info.get_tokenizer().get_vocab()
        one, two, three, four = (vocabulary["\n" * count] for count in (1, 2, 3, 4))
        for pair, joined in (([one, two], three), ([two, one], three), ([two, two], four)):
            tokens = replace_token_matches(tokens, pair, [joined])
        mark = self.info.get_hf_config().image_token_index
        number, count = [], -1
        for before, token in zip([-1, *tokens], tokens, strict=False):
            count += token == mark != before
            number.append(count if token == mark else -1)
        return tokens, number


@MULTIMODAL_REGISTRY.register_processor(
    Gemma3Processor, info=Gemma3ProcessingInfo, dummy_inputs=Gemma3DummyInputsBuilder
)
class Gemma3(PrunesImages, Gemma3ForConditionalGeneration):
    """Gemma 3, whose encoder hands out the rows that stay."""

    def flat(self, fields: Mapping[str, Any]) -> dict[str, list[int]]:
        return {"pixel_values": [int(each) for each in fields["num_patches"]]}

    def sizes(self, fields: Mapping[str, Any], images: int) -> list[int]:
        return [int(each) * self.config.mm_tokens_per_image for each in fields["num_patches"]]

    def grids(self, fields: Mapping[str, Any], sizes: Sequence[int]) -> Sequence[Grid | None]:
        return [square(n) for n in sizes]
