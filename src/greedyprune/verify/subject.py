"""Subject: a model and a way to write prompts for it. The proofs need nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.models.parts import find_parts
from greedyprune.preprocessing.inputs import to_model
from greedyprune.verify.cases import Rows

FULL, SLIDING = "full_attention", "sliding_attention"
RECURRENT = ("linear_attention", "conv", "mamba", "recurrent")
"""Kinds of decoder layers that hold a state instead of keys and values: there a mask hides nothing."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and how prompts for it are written."""

    model: Any
    write: Callable[[Rows], dict[str, Tensor]]
    """The inputs of a batch, padded on the left. The same row has the same tokens in every batch."""
    banned: tuple[int, ...] = ()
    """Tokens that must not be generated: placeholders of media, and ends."""
    extend: Callable[[dict[str, Tensor], Tensor], dict[str, Tensor]] | None = None
    """The inputs with an answer after the prompt, if that takes more than `continued` does."""
    source: str = ""
    """Where the prompts come from, as text."""
    memo: dict[Rows, dict[str, Tensor]] = field(default_factory=dict)

    def prompt(self, rows: Rows) -> dict[str, Tensor]:
        """The inputs of a batch where the model is and in its type. Copies, so that no run can reach the next."""
        if rows not in self.memo:
            self.memo[rows] = self.write(rows)
        return to_model({name: value.clone() for name, value in self.memo[rows].items()}, self.model)

    def continued(self, inputs: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
        """The inputs of a prompt with more text after it. `ids` are all tokens, those of the prompt first."""
        if self.extend is not None:
            return self.extend(inputs, ids)
        shape, more = inputs["input_ids"].shape, ids.shape[1] - inputs["input_ids"].shape[1]
        longer = {  # what goes token by token: the mask is 1 for text, the types are 0
            name: nn.functional.pad(value, (0, more), value=int(name == "attention_mask"))
            for name, value in inputs.items()
            if value.shape == shape
        }
        return {**inputs, **longer, "input_ids": ids}

    def visual(self, ids: Tensor) -> Tensor:
        """True for tokens that stand for images or other media. (b, L) -> (b, L) bool"""
        tokens = [token for _, token in find_parts(self.model).media]
        return torch.isin(ids, torch.tensor(tokens, device=ids.device))


def placeholder(model: Any) -> int:
    """The placeholder token of images."""
    return int(getattr(model.config, find_parts(model).family.image_token))


def banned_tokens(model: Any) -> tuple[int, ...]:
    """Every token that a config names, such as placeholders and ends: none of them may come up in an answer."""
    text = model.get_decoder().config
    named: set[int] = set()
    for config in (model.config, text, model.generation_config):
        for name, value in config.to_dict().items():
            if re.search(r"(_token_id|_token_ids|_token_index)$", name):
                named.update(each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int))
    return tuple(sorted(token for token in named if 0 <= token < text.vocab_size))


def kinds_of(model: Any) -> list[tuple[str, int]]:
    """The kind of each decoder layer, and its window; 0 if it has none."""
    text = model.get_decoder()
    config = text.config
    window = (getattr(config, "sliding_window", None) or 0) if getattr(config, "use_sliding_window", True) else 0
    usual = SLIDING if window else FULL
    kinds = getattr(config, "layer_types", None) or [usual] * len(text.layers)
    return [(kind, window if kind == SLIDING else 0) for kind in kinds]


def is_recurrent(model: Any) -> bool:
    """True if some decoder layers hold a state instead of keys and values."""
    return any(word in kind for kind, _ in kinds_of(model) for word in RECURRENT)


@contextmanager
def attending(model: Any, how: str) -> Iterator[None]:
    """Inside, the model computes attention this way."""
    parts = {"": model.config, **{name: getattr(model.config, name) for name in model.config.sub_configs}}
    before = {name: part._attn_implementation for name, part in parts.items() if part is not None}
    try:
        model.set_attn_implementation(how)  # may be refused halfway
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def exactly(model: nn.Module) -> Iterator[None]:
    """Inside, a model with 16-bit weights computes in float32; afterwards it is bit by bit what it was."""
    tensors = [*model.parameters(), *model.buffers()]
    rough = [(x, x.dtype) for x in tensors if x.dtype in (torch.bfloat16, torch.float16)]
    for x, _ in rough:
        x.data = x.data.float()
    try:
        yield
    finally:
        for x, dtype in rough:
            x.data = x.data.to(dtype)
