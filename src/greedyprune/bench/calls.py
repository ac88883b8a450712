"""Calls that are compared: a model and the arguments of its prefill, with vision features that are computed once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from greedyprune.models.reads import length_of
from greedyprune.models.release import cache_of, cached

if TYPE_CHECKING:
    from greedyprune.models.parts import Parts

FEATURES = "mm_encoder_outputs"
"""The argument that takes vision features."""


class Unmeasurable(ValueError):
    """Raised if a model, a method or a device cannot be measured in this way. The message says why, and what can."""


@dataclass(frozen=True, eq=False)
class Call:
    """A model and the arguments of its prefill."""

    model: Any
    inputs: Mapping[str, Any]
    length: int
    """Tokens of the prompt before anything is dropped, which number those behind it."""

    def prefill(self) -> Any:
        """Read the prompt into a new cache; the logits are those of its last token."""
        return self.model(**self.inputs, use_cache=True, logits_to_keep=1)

    def step(self, output: Any, token: Tensor | None = None, done: int = 0) -> Any:
        """Read one token more into the cache of a prefill, as a step of `generate` does. `done`: steps before it.

        It is the prompt's last token, unless another is given: which it is changes no time. (b, 1)
        """
        cache, ids = cache_of(output), self.inputs["input_ids"]
        mask = ids.new_ones(ids.shape[0], length_of(cache) + 1)  # a pruned cache counts what it dropped, too
        return self.model(
            input_ids=ids[:, -1:] if token is None else token,
            attention_mask=mask,
            position_ids=torch.full_like(ids[:, -1:], self.length + done),
            use_cache=True,
            **cached(self.model, cache),
        )

    def answer(self, tokens: int) -> Tensor:
        """Read the prompt and say so many tokens, the likeliest each time. -> (b, tokens)"""
        output = self.prefill()
        said = [output.logits[:, -1].argmax(-1, keepdim=True)]
        for done in range(tokens - 1):
            output = self.step(output, said[-1], done)
            said.append(output.logits[:, -1].argmax(-1, keepdim=True))
        return torch.cat(said, 1)


def check_release(parts: Parts) -> None:
    """Raise Unmeasurable if vision features cannot be passed to this model in this release of transformers."""
    if FEATURES not in inspect.signature(type(parts.outer).forward).parameters:
        raise Unmeasurable(
            f"a {parts.family.model_type!r} model of transformers {transformers.__version__} takes no vision features "
            f"({FEATURES}), so its prefill cannot be measured by itself: a later release may."
        )


def encoder(parts: Parts, inputs: Mapping[str, Tensor]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """The function that computes the features of a prompt's images, and the arguments of the prompt without pixels."""
    medium = next(medium for medium, _ in parts.media if medium.kind == "image")
    compute = getattr(parts.outer, medium.features)
    asked = [name for name in inspect.signature(compute).parameters if name in inputs]
    pixels = [name for name in asked if inputs[name].is_floating_point()]
    rest = {name: value for name, value in inputs.items() if name not in pixels}
    return (lambda: compute(**{name: inputs[name] for name in asked}, return_dict=True)), rest
