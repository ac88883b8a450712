"""vLLM in this process, with a look at what it selects."""

from __future__ import annotations

import os

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, so that selections can be seen
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}

from typing import Any

import torch
from reference import TOKENS, Answer

import greedyprune as gp
from greedyprune.engines.vllm import HOMES, PREFIX

ARCHITECTURES = {
    "llava": "LlavaForConditionalGeneration",
    "qwen": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
}
SETTINGS: dict[str, Any] = {
    "dtype": "float32", "enforce_eager": True, "max_model_len": 512, "block_size": 32, "max_num_seqs": 8,
    "enable_prefix_caching": True, "limit_mm_per_prompt": {"image": 3, "video": 0}, "seed": 0,
}  # fmt: skip
Prompt = tuple[str, list[Any]]
"""A text, and the pictures that it is about."""


class Engine:
    """A checkpoint in vLLM, pruned by the options of a server, or as vLLM is (None)."""

    def __init__(self, folder: object, architecture: str, options: dict[str, Any] | None, **settings: Any) -> None:
        from vllm import LLM, SamplingParams

        torch.set_num_threads(1)
        assert architecture in HOMES
        overrides = {"architectures": [PREFIX + architecture], "greedyprune": options}
        self.llm = LLM(str(folder), hf_overrides={} if options is None else overrides, **(SETTINGS | settings))
        self.params = SamplingParams(temperature=0, max_tokens=TOKENS, logprobs=1)
        self.seen: list[tuple[gp.Method, list[int]]] = []
        """Every selection since `forget` was called: the method and the rows, image by image."""
        self.last: list[Any] = []
        """vLLM's own outputs of the last prompts."""
        self._watch()

    def ask(self, prompts: list[Prompt], options: Any = None) -> list[Answer]:
        """The answers to prompts that may run together. `options`: those of each prompt, or of all."""
        each = options if isinstance(options, list) else [options] * len(prompts)
        inputs: list[Any] = [{"prompt": text, "multi_modal_data": {"image": images}} for text, images in prompts]
        for one, wish in zip(inputs, each, strict=True):
            if wish is not None:
                one["mm_processor_kwargs"] = {"greedyprune": wish}
        self.last = self.llm.generate(inputs, self.params, use_tqdm=False)
        found = list[Answer]()
        for output in self.last:
            out = output.outputs[0]
            both = zip(out.token_ids, out.logprobs, strict=True)
            found.append(Answer(list(out.token_ids), [each[token].logprob for token, each in both], []))
        return found

    def forget(self) -> None:
        """Empty all caches, and the list of selections."""
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        self.seen.clear()

    @property
    def runner(self) -> Any:
        """vLLM's model runner."""
        return self.llm.llm_engine.model_executor.driver_worker.worker.model_runner

    def _watch(self) -> None:
        from greedyprune.engines.vllm import worker

        own = worker.choose

        def choose(model: Any, rows: Any, plans: Any, *more: Any) -> Any:
            keeps = own(model, rows, plans, *more)
            for plan, keep in zip(plans, keeps, strict=True):
                if plan.policy is not None and not plan.measuring:
                    self.seen.append((plan.policy.method, keep.rows.tolist()))
            return keeps

        worker.choose = choose
