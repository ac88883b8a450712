"""The engine: a model answers one batch of questions in one configuration after another.

Answers are made as users make them: processor, then `generate` inside `prune`. The processor runs once per batch. So
does the vision tower, unless the method looks into it, and so do the decoder layers in front of the cut.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from greedyprune.attach.handle import prune
from greedyprune.budget import LayerAverage, count
from greedyprune.eval.configs import BLIND, DENSE, DOWNSCALE, ORACLE, Config, evenly
from greedyprune.eval.features import Computed, shared_features
from greedyprune.eval.items import Item
from greedyprune.eval.perturbed import greyed, perturbed, picture_number
from greedyprune.eval.prefix import Prefix, shared_prefix
from greedyprune.eval.regions import tokens_of
from greedyprune.models.flops import prefill_flops
from greedyprune.models.locate import images
from greedyprune.models.parts import Parts, find_parts
from greedyprune.models.prompt import Span
from greedyprune.ops.grid import Box
from greedyprune.policy import Policy
from greedyprune.preprocessing.inputs import chat, padded_left, to_model
from greedyprune.preprocessing.seen import seen
from greedyprune.preprocessing.transforms import downscale
from greedyprune.selection import Selection


class ItemError(RuntimeError):
    """Raised if a question cannot be answered. Nothing is scored."""


@dataclass(frozen=True)
class Outcome:
    """The answers of one configuration to one batch. Every list has one entry per question."""

    config: str
    batch: int
    told: list[str]
    tokens: list[int]
    """Visual tokens before the cut."""
    kept: list[int]
    averaged: list[float]
    """Visual tokens per decoder layer."""
    flops: list[int]
    """FLOPs of the decoder over the prompt, without padding."""
    region: list[int]
    """Visual tokens that carry the answer; 0 if no region is known."""
    found: list[int]
    """Kept tokens that carry the answer; -1 if tokens are merged or the model saw another image."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Any) -> Outcome:
        """Read plain values back. Raises ValueError or TypeError if they are no outcome."""
        found = cls(**given)
        lists = [getattr(found, name) for name, kind in cls.__annotations__.items() if kind.startswith("list")]
        if not isinstance(found.config, str) or type(found.batch) is not int:
            raise ValueError("its configuration or its batch has no name")
        if not all(isinstance(one, list) and len(one) == len(found.told) for one in lists):
            raise ValueError("its lists are not of one length")
        if not all(isinstance(text, str) for text in found.told):
            raise ValueError("its answers are no texts")
        return found


@dataclass(eq=False)
class Batch:
    """Questions that are answered together."""

    number: int
    items: list[Item]
    pictures: list[Any]
    inputs: dict[str, Any]
    spans: list[Span] = field(default_factory=list)
    """The place of each image in the prompts."""
    regions: list[torch.Tensor] = field(default_factory=list)
    """The visual tokens that carry each answer."""
    features: Computed = field(default_factory=dict)
    """Image features that configurations share; they go with the batch."""
    prefix: Prefix = field(default_factory=dict)
    """Decoder layers before the cut that configurations share; they go with the batch."""


class Engine:
    """A model and its processor, ready for questions. Every call leaves both as they were."""

    def __init__(self, model: Any, processor: Any, max_new_tokens: int = 8) -> None:
        self.model, self.processor, self.longest = model, processor, max_new_tokens
        self.parts = find_parts(model)

    def prompt(self, item: Item) -> str:
        """The question, behind the turns before it, in the model's own chat template."""
        return self.processor.apply_chat_template(chat(item.text, item.before), add_generation_prompt=True)

    def inputs(self, items: Sequence[Item], pictures: Sequence[Any]) -> dict[str, Any]:
        """The model's inputs for a batch, padded on the left."""
        text = [self.prompt(item) for item in items]
        with padded_left(self.processor):
            made = self.processor(images=list(pictures), text=text, return_tensors="pt", padding=True)
        return to_model(made, self.model)

    def prepare(self, number: int, items: list[Item]) -> Batch:
        """Do the work that all configurations share. Raises ItemError with the name of the question that failed."""
        try:
            return self._prepare(number, items)
        except Exception as error:
            raise _error_with_name("preparing", items, error, lambda item: self._prepare(number, [item])) from error

    def _prepare(self, number: int, items: list[Item]) -> Batch:
        pictures = [item.open() for item in items]
        batch = Batch(number, items, pictures, self.inputs(items, pictures))
        batch.spans = images(self.model, batch.inputs)
        batch.regions = self.tokens_of(batch, [item.boxes for item in items])
        return batch

    def tokens_of(self, batch: Batch, boxes: Sequence[Sequence[Box]]) -> list[torch.Tensor]:
        """The visual tokens that each question's boxes cover, ascending; none if its image lies on no grid."""
        return [
            tokens_of(each, span.grid, seen(picture, self.processor))
            for each, span, picture in zip(boxes, batch.spans, batch.pictures, strict=True)
        ]

    def answer(self, batch: Batch, config: Config) -> Outcome:
        """Answer a batch in one configuration. Raises ItemError with the name of the question that failed."""
        try:
            return self._answer(batch, config)
        except Exception as error:

            def alone(item: Item) -> Any:
                return self._answer(self._prepare(batch.number, [item]), config)

            raise _error_with_name(str(config), batch.items, error, alone) from error

    def generate(self, batch: Batch, config: Config) -> tuple[list[str], dict[str, Any], list[Selection] | None]:
        """Generate the answers. -> answers, the model's inputs, and one selection per image (None if nothing is cut)"""
        inputs = batch.inputs
        if config.name == DOWNSCALE:
            keep = config.keep.tokens if isinstance(config.keep, LayerAverage) else config.keep
            small = downscale(batch.pictures, keep or 0, self.processor)
            inputs = self.inputs(batch.items, small.images)
        if config.perturbation == BLIND:
            inputs = self.inputs(batch.items, [greyed(picture) for picture in batch.pictures])
        sharing = shared_features(self.parts, batch.features, config.method)
        prefix = shared_prefix(self.parts, batch.prefix, self._layers_before(config))
        with torch.inference_mode(), sharing, self._pruned(batch, config) as pruned, prefix:
            out = self.model.generate(**inputs, max_new_tokens=self.longest, do_sample=False)
        told = self.processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in told], inputs, pruned.selections if pruned else None

    def visual_tokens(self, inputs: dict[str, Any]) -> list[int]:
        """The number of visual tokens of each prompt."""
        tokens = torch.tensor([token for _, token in self.parts.media])
        return torch.isin(inputs["input_ids"], tokens).sum(1).tolist()

    def _answer(self, batch: Batch, config: Config) -> Outcome:
        begun = time.perf_counter()
        told, inputs, selections = self.generate(batch, config)
        seconds = time.perf_counter() - begun
        shown = self.visual_tokens(inputs)
        kept = shown if selections is None else [selection.k for selection in selections]
        layers = len(self.parts.layers)
        visual = [[n] * layers for n in shown] if selections is None else [list(s.per_layer) for s in selections]
        text = [length - n for length, n in zip(inputs["attention_mask"].sum(1).tolist(), shown, strict=True)]
        return Outcome(
            config=config.key,
            batch=batch.number,
            told=told,
            tokens=self.visual_tokens(batch.inputs),
            kept=kept,
            averaged=[sum(lengths) / layers for lengths in visual],
            flops=[prefill_flops(self.model.config, [m + v for v in row]) for m, row in zip(text, visual, strict=True)],
            region=[len(rows) for rows in batch.regions],
            found=_region_tokens_kept(batch, config, selections),
            seconds=seconds,
        )

    def _layers_before(self, config: Config) -> int:
        """The number of decoder layers before the first cut; 0 for the dense model, which runs its layers once."""
        return min(self._starts(config), default=0)

    def _starts(self, config: Config) -> list[int]:
        """The decoder layers that a cut precedes."""
        if config.method is None:
            return []
        return Policy(config.method, 1, config.stage or config.method.at).on(len(self.parts.layers)).starts

    def _tokens_kept(self, config: Config, n: int) -> int:
        """The number of an image's n visual tokens that stay after the last cut."""
        assert config.keep is not None
        if not isinstance(config.keep, LayerAverage):
            return count(config.keep, n)
        starts = self._starts(config) or [0]
        return config.keep.solve(n, starts, len(self.parts.layers), lambda k: [k] * len(starts))

    def _pruned(self, batch: Batch, config: Config) -> Any:
        method = config.method
        if method is None:
            return nullcontext()
        more: dict[str, Any] = {}
        if config.perturbation:
            method = perturbed(config.perturbation, method)
            tokens = zip(batch.items, self.visual_tokens(batch.inputs), strict=True)
            more["relevance"] = [picture_number(item.picture, n) for item, n in tokens]
        if config.name == ORACLE:
            more["protect"] = [
                evenly(rows, self._tokens_kept(config, n)).tolist()
                for rows, n in zip(batch.regions, self.visual_tokens(batch.inputs), strict=True)
            ]
        return prune(self.model, method, config.keep, at=config.at, **more)


def few_logits(model: Any, parts: Parts) -> dict[str, int]:
    """The argument that asks for the logits of the last token alone, if nobody reads them; empty if there is none.

    A decoder whose late layers use the keys of early ones would run those on the last token alone, so it is not asked.
    """
    known = "logits_to_keep" in inspect.signature(model.forward).parameters
    shared = getattr(parts.text.config, "num_kv_shared_layers", 0)
    return {"logits_to_keep": 1} if known and not shared else {}


def _region_tokens_kept(batch: Batch, config: Config, selections: list[Selection] | None) -> list[int]:
    """The number of kept tokens that carry the answer, per image; -1 if it cannot be counted."""
    if config.name == DENSE and config.perturbation != BLIND:
        return [len(rows) for rows in batch.regions]
    if selections is None or config.method is None or config.method.merges:
        return [-1] * len(batch.items)
    return [
        int(torch.isin(rows, selection.rows.cpu()).sum())
        for rows, selection in zip(batch.regions, selections, strict=True)
    ]


def _error_with_name(what: str, items: list[Item], error: Exception, alone: Callable[[Item], Any]) -> ItemError:
    """Make the error that names the question which fails.

    Questions are tried one by one; if none fails alone, the first is named.
    """
    for item in items if len(items) > 1 else []:
        try:
            alone(item)
        except Exception as found:
            return ItemError(f"{what} failed on {item.name}: {type(found).__name__}: {found}")
    with_others = f", only together with the {len(items) - 1} others of its batch" if len(items) > 1 else ""
    return ItemError(f"{what} failed on {items[0].name}{with_others}: {type(error).__name__}: {error}")
