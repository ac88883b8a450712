"""What all tiny models are made of: prompts, pictures, configs of decoders and towers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

VOCABULARY, IMAGE, BEGIN, END = 128, 100, 102, 103
VIDEO, AUDIO = 101, 107
SPECIAL = list(range(100, 112))
"""Tokens that stand for images, videos, sounds or their borders: a model with random weights must not generate them."""

Rows: TypeAlias = tuple[tuple[int, ...], ...]
"""The prompts of a batch, each as the numbers of its images. A number means one picture of one size everywhere."""


@dataclass(frozen=True, eq=False)
class Tiny:
    """A tiny model and how to feed it."""

    model: Any
    images: Callable[[Rows], tuple[dict[str, Tensor], list[list[int]]]]
    """The vision arguments of a batch, and the tokens that stand for each image, borders included, in order."""
    extras: Callable[[Tensor], dict[str, Tensor]] = lambda ids: {}
    """Arguments that follow from the token ids, such as token types."""
    has_grid: bool = True
    """Whether its images lie on a grid, which some methods need."""
    media: tuple[int, ...] = (IMAGE,)
    """The tokens that stand for images, videos or sounds."""

    def prompt(self, rows: Rows) -> dict[str, Tensor]:
        """The inputs of a batch, padded on the left. The same row has the same tokens in every batch."""
        vision, pieces = self.images(rows) if any(rows) else ({}, [])
        left = iter(pieces)
        texts = [_tokens(row, left) for row in rows]
        longest = max(map(len, texts))
        ids = torch.tensor([[0] * (longest - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
        return {"input_ids": ids, "attention_mask": mask, **vision, **self.extras(ids)}

    def continued(self, inputs: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
        """The inputs of a prompt with more text after it. `ids` are all tokens, those of the prompt first."""
        more = inputs["attention_mask"].new_ones(ids.shape[0], ids.shape[1] - inputs["input_ids"].shape[1])
        mask = torch.cat([inputs["attention_mask"], more], 1)
        return {**inputs, "input_ids": ids, "attention_mask": mask, **self.extras(ids)}


def _tokens(row: tuple[int, ...], pieces: Any) -> list[int]:
    """One prompt: text, then every image with text after it."""
    generator = torch.Generator().manual_seed(1000 + sum(10**place * (number + 1) for place, number in enumerate(row)))

    def words(count: int) -> list[int]:
        return torch.randint(5, 90, (count,), generator=generator).tolist()

    tokens = words(4)
    for _ in row:
        tokens += next(pieces) + words(3)
    return tokens + words(6)


def noise(number: int, *shape: int) -> Tensor:
    """The picture of this number."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))


def decoder(**more: Any) -> dict[str, Any]:
    """The config of a tiny decoder: 4 layers, 4 heads that share 2 key-value heads."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


def tower(**more: Any) -> dict[str, Any]:
    """The config of a tiny vision tower."""
    return {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, **more}


def squares(side: int, tokens: int) -> Callable[[Rows], tuple[dict[str, Tensor], list[list[int]]]]:
    """Images of one size, stacked: (images, 3, side, side)."""

    def images(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        numbers = [number for row in rows for number in row]
        pixels = torch.stack([noise(number, 3, side, side) for number in numbers])
        return {"pixel_values": pixels}, [[BEGIN, *[IMAGE] * tokens, END] for _ in numbers]

    return images
