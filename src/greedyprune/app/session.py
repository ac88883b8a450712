"""A model that answers for the app: one question at a time, with all tokens and by every method that is wanted.

session = Session("llava", load)
dense, *others = session.answer(image, "how many circles ?", ["divprune", "fastv"], "25%")
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from greedyprune.attach.handle import prune
from greedyprune.bench.planned import planned
from greedyprune.methods.grid import UniformGrid
from greedyprune.models.needs import check_needs
from greedyprune.models.parts import find_parts
from greedyprune.policy import Policy
from greedyprune.preprocessing.inputs import chat, to_model
from greedyprune.preprocessing.seen import seen
from greedyprune.registry import DEFAULT, method_homes
from greedyprune.testbed import spelling

if TYPE_CHECKING:
    from PIL import Image

    from greedyprune.selection import Selection

LONGEST = 64
"""Tokens of an answer, at most."""
LEAST = Policy(UniformGrid(), 0)
"""A policy that every model takes, with which the dense prompt is counted."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What one method answered and what it cost; of the dense model, if there is no method."""

    title: str
    text: str
    tokens: int = 0
    kept: int = 0
    sequence: int = 0
    cache_bytes: int | None = None
    flops: int = 0
    """Of the prompt, in the decoder."""
    at: str = ""
    selection: Selection | None = None
    problem: str = ""
    """The reason why there is no answer."""


class Session:
    """A model and its processor, loaded at the first question. Threads take turns."""

    def __init__(self, name: str, load: Callable[[], Any], longest: int = LONGEST) -> None:
        """`load` gives an object with `model`, `processor` and `bundled`, which says if it is one of the testbed's."""
        self.name, self.longest = name, longest
        self._load, self._lock = load, threading.RLock()

    @cached_property
    def _loaded(self) -> Any:
        return self._load()

    @property
    def processor(self) -> Any:
        """The model's processor."""
        with self._lock:
            return self._loaded.processor

    def methods(self) -> list[str]:
        """The methods that can run on this model, the default one first."""
        with self._lock:
            parts = find_parts(self._loaded.model)
        return sorted((name for name in method_homes() if _can_run(parts, name)), key=lambda name: name != DEFAULT)

    def part(self, image: Image.Image) -> tuple[float, float, float, float]:
        """The part of a picture that the model sees."""
        return seen(image, self.processor)

    def answer(
        self, image: Image.Image, question: str, methods: Sequence[str], keep: str, at: str | None = None
    ) -> list[Answer]:
        """Answer with all tokens, then by each method. A method that fails has a problem instead of an answer."""
        with self._lock, torch.inference_mode():
            model, processor = self._loaded.model, self._loaded.processor
            text, strange = spelling(processor, question) if self._loaded.bundled else (question, "")
            prompt = processor.apply_chat_template(chat(text), add_generation_prompt=True)
            inputs = to_model(processor(images=[image], text=prompt, return_tensors="pt"), model)
            counts = planned(model, inputs, LEAST, model.dtype)
            note = f" ({strange})" if strange else ""
            dense = Answer(
                f"all tokens{note}",
                self._generate(inputs),
                counts.tokens,
                counts.tokens,
                counts.sequence,
                counts.cache_bytes_full,
                counts.prefill_flops_full,
            )
            return [dense, *(self._pruned(inputs, name, keep, at) for name in methods)]

    def _pruned(self, inputs: dict[str, Any], name: str, keep: str, at: str | None) -> Answer:
        try:
            with prune(self._loaded.model, name, keep, at=at) as pruned:
                text = self._generate(inputs)
                report, selections = pruned.report(), pruned.selections
        except (ValueError, TypeError, NotImplementedError) as error:
            return Answer(name, "", problem=str(error))
        return Answer(
            name,
            text,
            report.tokens,
            report.kept,
            report.sequence_kept,
            report.cache_bytes,
            report.prefill_flops,
            report.at,
            selections[0],
        )

    def _generate(self, inputs: dict[str, Any]) -> str:
        out = self._loaded.model.generate(**inputs, max_new_tokens=self.longest, do_sample=False)
        told = self._loaded.processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return told[0].strip()


def _can_run(parts: Any, name: str) -> bool:
    """True if a method can run on a model at the method's own place."""
    try:
        policy = Policy(name, 1).on(len(parts.layers))  # pyright: ignore[reportArgumentType]
        check_needs(parts, policy)
        policy.check_stages()
    except (ValueError, TypeError, NotImplementedError):
        return False
    return True
