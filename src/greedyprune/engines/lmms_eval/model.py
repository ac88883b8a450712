"""The model of lmms-eval: any checkpoint that `gp.prune` knows, dense, pruned or with images scaled down."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.models.model_utils.gen_metrics import log_metrics  # pyright: ignore[reportMissingImports]

from greedyprune.attach.handle import prune
from greedyprune.engines.lmms_eval import DENSE, DOWNSCALE
from greedyprune.models.parts import find_parts
from greedyprune.naming import as_method, parse_keep
from greedyprune.preprocessing.inputs import check_question, padded_left, to_model
from greedyprune.preprocessing.processors import load_processor
from greedyprune.preprocessing.transforms import downscale
from greedyprune.registry import DEFAULT

_SAMPLING = ("temperature", "top_p", "num_beams", "max_new_tokens", "do_sample")
"""What is read of a task's `generation_kwargs`, beside `until`."""


@dataclass(frozen=True)
class _Prompt:
    """One question of a task."""

    messages: list[dict[str, Any]]
    """Turns of a chat template."""
    images: list[Any]
    wanted: Mapping[str, Any]
    """The task's `generation_kwargs`."""
    key: str
    """The text that the harness caches an answer by."""


class GreedyPrune(lmms):
    """A model with fewer visual tokens, for the tasks of lmms-eval.

    The options stand behind `--model_args`, as NAME=VALUE with commas between them:

    - `pretrained`: a folder or an id of the hub.
    - `method`: a name, JSON such as {"type": "divprune"}, `dense` or `downscale`.
    - `keep`, `at`, `positions`: as in `gp.prune`, in their text forms: 64, 25%, 64 per layer, layer:2.
    - `device`, `dtype`, `attn_implementation`: as in `from_pretrained`. `dtype` is float32 on a CPU, else the
      checkpoint's own.

    Raises ValueError or TypeError for an option that is unknown or wrong, before the weights are read if it can be told
    then; ValueError for a task with videos or sounds; NotImplementedError for log-likelihoods and for several rounds.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "",
        method: str = DEFAULT,
        keep: int | float | str = "25%",
        at: str | None = None,
        positions: str = "original",
        device: str | None = None,
        dtype: str | None = None,
        attn_implementation: str = "sdpa",
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if not pretrained:
            raise ValueError("--model_args names no model: write pretrained=FOLDER_OR_ID.")
        if unknown:
            known = [name for name in inspect.signature(GreedyPrune.__init__).parameters if name != "unknown"][1:]
            raise ValueError(f"--model_args has the unknown option {min(unknown)!r}: known are {', '.join(known)}.")
        if not str(batch_size).isdecimal() or not int(str(batch_size)):
            raise ValueError(f"--batch_size {batch_size} is no number: write how many questions are answered together.")
        self.batch_size_per_gpu = int(str(batch_size))
        name = _bare(method)
        self._small = parse_keep(_budget(keep)) if name == DOWNSCALE else None
        chosen = None if name in (DENSE, DOWNSCALE) else as_method(json.loads(name) if name.startswith("{") else name)
        budget = parse_keep(_budget(keep)) if chosen is not None else None
        self._device = _device(device)
        self._load(pretrained, dtype, attn_implementation)
        if chosen is not None:
            self.pruned = prune(self.model, chosen, budget, at=at and _bare(at), positions=positions)  # pyright: ignore[reportArgumentType]
        else:
            self.pruned = None
        media = find_parts(self.model).media
        self._tokens = torch.tensor([token for _, token in media], device=self.model.device)
        self._told: list[tuple[int, int]] = []

    def _load(self, pretrained: str, dtype: str | None, attention: str) -> None:
        from transformers import AutoModelForImageTextToText

        kind = dtype or ("float32" if self._device.startswith("cpu") else "auto")
        model: Any = AutoModelForImageTextToText.from_pretrained(
            pretrained, dtype=kind, attn_implementation=attention, local_files_only=os.path.isdir(pretrained)
        )
        self.model, self.processor = model.to(self._device).eval(), load_processor(pretrained)
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)

    @property
    def batch_size(self) -> int:
        """The number of questions that are answered together."""
        return self.batch_size_per_gpu

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.device

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """Answer the questions of a task. -> one result per request, in their order"""
        prompts = [self._prompt(request.args) for request in requests]
        results: list[Any] = [None] * len(prompts)
        begun, written = time.perf_counter(), 0
        for batch in _batches(prompts, self.batch_size):
            for place, (told, tokens) in zip(batch, self._answer([prompts[place] for place in batch]), strict=True):
                results[place] = GenerationResult(text=told, token_counts=TokenCounts(output_tokens=tokens))
                self.cache_hook.add_partial("generate_until", (prompts[place].key, prompts[place].wanted), told)
                written += tokens
        seconds = time.perf_counter() - begun
        before, after = zip(*self._told, strict=True) if self._told else ([0], [0])
        log_metrics(
            total_elapsed_time=seconds,
            total_gen_tokens=written,
            avg_speed=written / seconds if seconds else 0.0,
            additional_metrics={"visual_tokens": mean(before), "visual_tokens_kept": mean(after)},
        )
        return results

    def _prompt(self, given: Sequence[Any]) -> _Prompt:
        """Read a request of the harness."""
        context, doc_to_messages, wanted, doc_id, task, split = given
        messages: list[dict[str, Any]] = []
        images: list[Any] = []
        for message in doc_to_messages(self.task_dict[task][split][doc_id]):
            content: list[dict[str, Any]] = []
            for part in message["content"]:
                if part["type"] == "text":
                    check_question(part["text"], self.processor)
                    content.append({"type": "text", "text": part["text"]})
                elif part["type"] == "image":
                    images.append(part["url"].convert("RGB"))
                    content.append({"type": "image"})
                else:
                    raise ValueError(f"the task {task!r} shows a {part['type']}: this model takes images and text.")
            messages.append({"role": message["role"], "content": content})
        return _Prompt(messages, images, wanted, f"{task} {split} {doc_id} {context}")

    def _answer(self, prompts: list[_Prompt]) -> Iterator[tuple[str, int]]:
        """Answer questions together. -> each answer, and the number of its tokens"""
        text = [self.processor.apply_chat_template(one.messages, add_generation_prompt=True) for one in prompts]
        inputs = self._inputs(text, [image for one in prompts for image in one.images])
        before = [int(torch.isin(row, self._tokens).sum()) for row in inputs["input_ids"]]
        if self._small is not None:
            small = [downscale(one.images, self._small, self.processor) if one.images else None for one in prompts]  # pyright: ignore[reportArgumentType]
            inputs = self._inputs(text, [image for one in small if one is not None for image in one.images])
        with torch.inference_mode():
            request = None if self.pruned is None else self.pruned.request()
            generate = self.model.generate if request is None else request.generate
            out = generate(**inputs, **_sampling(prompts[0].wanted), use_cache=True)
        if request is None:
            after = [int(torch.isin(row, self._tokens).sum()) for row in inputs["input_ids"]]
        else:
            kept = iter(selection.k for selection in request.selections)
            after = [sum(next(kept) for _ in one.images) for one in prompts]
        self._told += zip(before, after, strict=True)
        rows = out[:, inputs["input_ids"].shape[1] :]
        pad = self.tokenizer.pad_token_id
        for one, row in zip(prompts, rows, strict=True):
            told = self.tokenizer.decode(row, skip_special_tokens=True).strip()
            yield _cut(told, one.wanted.get("until")), int((row != pad).sum())

    def _inputs(self, text: list[str], images: list[Any]) -> dict[str, torch.Tensor]:
        with padded_left(self.processor):
            made = self.processor(images=images or None, text=text, return_tensors="pt", padding=True)
        return to_model(made, self.model)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Refuse: tasks of multiple choice by likelihood are not supported."""
        raise NotImplementedError("log-likelihoods are not supported: choose a task with output_type generate_until.")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refuse: tasks whose later questions depend on answers are not supported."""
        raise NotImplementedError("tasks of several rounds are not supported: choose one with generate_until.")


def _batches(prompts: Sequence[_Prompt], size: int) -> Iterator[list[int]]:
    """The places of prompts that are answered together: of equal `generation_kwargs`, with images or all without."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for place, prompt in enumerate(prompts):
        key = json.dumps(dict(prompt.wanted), sort_keys=True, default=str), bool(prompt.images)
        groups.setdefault(key, []).append(place)
    for places in groups.values():
        for start in range(0, len(places), size):
            yield places[start : start + size]


def _sampling(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `generate` for a task's `generation_kwargs`. A temperature of 0 is greedy."""
    given = {name: wanted[name] for name in _SAMPLING if wanted.get(name) is not None}
    samples = bool(given.get("temperature")) and given.get("do_sample", True)
    drawn = {name: given[name] for name in ("temperature", "top_p") if samples and name in given}
    plain = {} if samples else {"temperature": None, "top_p": None, "top_k": None}
    counts = {"num_beams": int(given.get("num_beams", 1)), "max_new_tokens": int(given.get("max_new_tokens", 1024))}
    return {**plain, **drawn, **counts, "do_sample": bool(samples)}


def _cut(told: str, until: Any) -> str:
    """The answer up to the first of the texts that end it."""
    for end in [until] if isinstance(until, str) else until or []:
        told = told.split(end)[0] if end else told
    return told.strip()


def _budget(keep: int | float | str) -> Any:
    """The budget as `parse_keep` takes it. The harness reads `0.25` as a float, and 25% as a text."""
    return _bare(keep) if isinstance(keep, str) else keep


def _bare(text: str) -> str:
    """A text without the quotes that protect commas in --model_args."""
    stripped = text.strip()
    return stripped[1:-1] if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "'\"" else stripped


def _device(named: str | None) -> str:
    """The device: what is named, else a GPU if there is one. Under `accelerate launch` each process has its own."""
    device = named or ("cuda" if torch.cuda.is_available() else "cpu")
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local else device
