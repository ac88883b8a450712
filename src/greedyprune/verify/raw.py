"""Prompts for a checkpoint without a processor: random words and pixels, and the placeholders of its images."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from greedyprune.models.parts import find_parts
from greedyprune.preprocessing.inputs import to_model
from greedyprune.verify.cases import Rows
from greedyprune.verify.subject import Subject, banned_tokens, placeholder

SIDES = ((6, 4), (4, 6), (6, 6))
"""Tokens across and down of images, in turn, for models that take images of any size."""


def from_config(model: Any, sizes: tuple[tuple[int, int], ...] = (), why: str = "", *, tried: bool = True) -> Subject:
    """Make prompts from the config alone. Raises ValueError if the config does not describe the family's images.

    `tried`: the model reads two of them first, which shows whether it takes them.
    """
    try:
        made = _from_config(model, sizes)
        if tried:
            with torch.no_grad():
                model(**made.prompt(((0,), (1, 2))))
                model(**made.prompt(((),)))
        return made
    except Exception as error:  # a family whose model wants something else raises what it likes
        kind = model.config.model_type
        raise ValueError(
            f"this checkpoint has no processor ({why or 'none was found'}), and prompts of a {kind!r} model cannot be "
            f"made from its config ({type(error).__name__}: {error}): save its processor beside it."
        ) from error


def _from_config(model: Any, sizes: tuple[tuple[int, int], ...]) -> Subject:
    outer: Any = find_parts(model).outer
    takes = inspect.signature(outer.get_image_features).parameters
    tiled = hasattr(model.config, "image_grid_pinpoints") and "batch_num_images" not in takes
    known = ("pixel_values", "image_sizes") if tiled else ("pixel_values",)
    unknown = [
        name
        for name, each in takes.items()
        if each.default is each.empty and each.kind is not each.VAR_KEYWORD and name not in known
    ]
    if "token_type_ids" in inspect.signature(type(model).forward).parameters:
        unknown.append("token_type_ids")  # what they mean differs from family to family
    if unknown:
        raise ValueError(f"it asks for {', '.join(unknown)}")
    flat = "image_grid_thw" in takes
    images = _patches(model, sizes) if flat else _tiles(model, sizes) if tiled else _squares(model)
    views = "pixel_attention_mask" in takes  # pictures come row by row: (b, images, 3, h, w)
    words = _Words(model)
    lengths: dict[int, int] = {}

    def length(number: int) -> int:
        if number not in lengths:
            pixels = images([number])
            if views:
                pixels = {"pixel_values": pixels["pixel_values"][None]}
            lengths[number] = _rows_of(outer, to_model(pixels, model))
        return lengths[number]

    def write(rows: Rows) -> dict[str, Tensor]:
        texts = [words.prompt(row, [length(number) for number in row]) for row in rows]
        pixels: dict[str, Tensor] = images([number for row in rows for number in row]) if any(rows) else {}
        if any(rows) and views:
            pixels = {"pixel_values": _by_row(pixels["pixel_values"], rows)}
        return {**words.batch(texts), **pixels}

    return Subject(model, write, banned_tokens(model), source="its config alone")


@torch.no_grad()
def _rows_of(outer: Any, pixels: dict[str, Tensor]) -> int:
    """The number of visual tokens that the model makes of a picture."""
    found = outer.get_image_features(**pixels)
    features = getattr(found, "pooler_output", found)
    pieces = [features] if isinstance(features, Tensor) else list(features)
    return sum(piece.shape[:-1].numel() for piece in pieces)


def _noise(number: int, *shape: int) -> Tensor:
    """The pixels of this number."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))


def _squares(model: Any) -> Callable[[list[int]], dict[str, Tensor]]:
    """Pictures of the one size that the tower's config names."""
    vision = model.config.vision_config
    size = vision.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    channels = getattr(vision, "num_channels", 3)

    def images(numbers: list[int]) -> dict[str, Tensor]:
        return {"pixel_values": torch.stack([_noise(number, channels, height, width) for number in numbers])}

    return images


def _patches(model: Any, sizes: tuple[tuple[int, int], ...]) -> Callable[[list[int]], dict[str, Tensor]]:
    """Pictures of several sizes as flat patches with their grids (Qwen-VL type)."""
    vision = model.config.vision_config
    merge, side = vision.spatial_merge_size, vision.patch_size
    channels = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
    wide = channels * getattr(vision, "temporal_patch_size", 1) * side * side
    tokens = [(max(w // (side * merge), 1), max(h // (side * merge), 1)) for w, h in sizes] or list(SIDES)

    def images(numbers: list[int]) -> dict[str, Tensor]:
        grids = [tokens[number % len(tokens)] for number in numbers]
        pixels = [_noise(n, w * h * merge**2, wide) for n, (w, h) in zip(numbers, grids, strict=True)]
        return {
            "pixel_values": torch.cat(pixels),
            "image_grid_thw": torch.tensor([(1, h * merge, w * merge) for w, h in grids]),
        }

    return images


def _tiles(model: Any, sizes: tuple[tuple[int, int], ...]) -> Callable[[list[int]], dict[str, Tensor]]:
    """Pictures of several sizes as tiles, the whole view first, filled up with zeros (LLaVA-NeXT)."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    side, channels = model.config.vision_config.image_size, getattr(model.config.vision_config, "num_channels", 3)
    given = [(height, width) for width, height in sizes] or [(side, side), (side, 2 * side)]

    def images(numbers: list[int]) -> dict[str, Tensor]:
        shapes = [given[number % len(given)] for number in numbers]
        counts = [image_size_to_num_patches(shape, model.config.image_grid_pinpoints, side) for shape in shapes]
        pixels = torch.zeros(len(numbers), max(counts), channels, side, side)
        for place, (number, count) in enumerate(zip(numbers, counts, strict=True)):
            pixels[place, :count] = _noise(number, count, channels, side, side)
        return {"pixel_values": pixels, "image_sizes": torch.tensor(shapes)}

    return images


def _by_row(pixels: Tensor, rows: Rows) -> Tensor:
    """Pictures by prompt; zeros fill prompts with fewer. (images, 3, h, w) -> (b, most, 3, h, w)"""
    found = pixels.new_zeros(len(rows), max(map(len, rows)), *pixels.shape[1:])
    left = iter(pixels)
    for place, row in enumerate(rows):
        for column in range(len(row)):
            found[place, column] = next(left)
    return found


class _Words:
    """Random text of a model: ordinary tokens, with images between markers."""

    def __init__(self, model: Any) -> None:
        self.image, text, banned = placeholder(model), model.get_decoder().config, set(banned_tokens(model))
        ordinary = [token for token in range(3, min(text.vocab_size, 1000)) if token not in banned]
        borders = [getattr(model.config, f"vision_{edge}_token_id", None) for edge in ("start", "end")]
        self.begin, self.end = (
            usual if border is None or border >= text.vocab_size else border
            for border, usual in zip(borders, ordinary, strict=False)
        )
        self.words = torch.tensor(ordinary[2:])
        self.pad = getattr(text, "pad_token_id", None) or 0
        self.typed = "mm_token_type_ids" in inspect.signature(type(model).forward).parameters

    def prompt(self, row: tuple[int, ...], lengths: list[int]) -> list[int]:
        """Text, then every image with text after it."""
        seed = 1000 + sum(10**place * (number + 1) for place, number in enumerate(row))
        generator = torch.Generator().manual_seed(seed)

        def some(count: int) -> list[int]:
            return self.words[torch.randint(len(self.words), (count,), generator=generator)].tolist()

        tokens = some(4)
        for length in lengths:
            tokens += [self.begin, *[self.image] * length, self.end, *some(3)]
        return tokens + some(6)

    def batch(self, texts: list[list[int]]) -> dict[str, Tensor]:
        """Padded on the left."""
        longest = max(map(len, texts))
        ids = torch.tensor([[self.pad] * (longest - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
        types = {"mm_token_type_ids": ((ids == self.image) & mask.bool()).long()} if self.typed else {}
        return {"input_ids": ids, "attention_mask": mask, **types}
