"""Prompts for a checkpoint: by its own processor if it has one, else from its config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.models.parts import find_parts
from greedyprune.preprocessing.processors import load_processor
from greedyprune.verify.cases import Rows
from greedyprune.verify.raw import from_config
from greedyprune.verify.ready import Unready, images, said
from greedyprune.verify.subject import Subject, banned_tokens

SIZES = ((168, 168), (224, 168), (168, 224))
"""Width and height of the pictures, in turn; small, since models that keep an image's size make many tokens of it."""
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
QUESTIONS = ("is there a red circle ?", "how many circles are in the picture ?", "what is the left one , and why ?")


def open_subject(model: Any, folder: str, sizes: tuple[tuple[int, int], ...] = ()) -> Subject:
    """A model and prompts for it. `folder` is where the model came from; `sizes` are those of the pictures."""
    if find_parts(model).family.layout is None:
        raise ValueError(f"a {model.config.model_type!r} model reads no images, and the proofs here are about images.")
    try:
        processor, why = load_processor(folder), "it has no image processor or no tokenizer"
    except Exception as error:  # whatever a folder without one, or with half of one, makes the loaders raise
        processor, why = None, " ".join(str(error).split()).partition(". ")[0]
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        made = from_config(model, sizes, why)
        broken = any((Path(folder) / name).is_file() for name in PROCESSOR_FILES)
        return replace(made, source=f"{made.source}, since its processor does not load: {why}") if broken else made
    return from_processor(model, processor, sizes)


def from_processor(model: Any, processor: Any, sizes: tuple[tuple[int, int], ...] = ()) -> Subject:
    """Prompts as users make them: pictures and a question through the chat template and the processor."""
    pad = processor.tokenizer.pad_token_id

    def write(rows: Rows) -> dict[str, Tensor]:
        return joined([_row(processor, row, sizes or SIZES) for row in rows], pad or 0)

    special = {token for token in processor.tokenizer.all_special_ids if token < model.get_decoder().config.vocab_size}
    banned = tuple(sorted({*banned_tokens(model), *special}))
    return Subject(model, write, banned, source="the checkpoint's own processor")


def _row(processor: Any, row: tuple[int, ...], sizes: tuple[tuple[int, int], ...]) -> dict[str, Tensor]:
    """The inputs of one prompt."""
    question = QUESTIONS[sum(row) % len(QUESTIONS)]
    if processor.chat_template or getattr(processor.tokenizer, "chat_template", None):
        content = [*({"type": "image"} for _ in row), {"type": "text", "text": question}]
        try:
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        except Exception as error:  # a template may do anything
            raise Unready(
                f"the chat template of this checkpoint fails on a prompt with {images(row)} ({said(error)}): mend "
                "its chat_template.jinja, or the template in its tokenizer_config.json."
            ) from error
    elif getattr(processor, "image_token", None):
        text = f"{processor.image_token * len(row)}{question}"
    else:
        raise Unready("this checkpoint's processor has neither a chat template nor an image token: add a template.")
    pictures = [picture(number, sizes[number % len(sizes)]) for number in row]
    try:
        inputs = processor(images=pictures or None, text=[text], return_tensors="pt")
    except Exception as error:  # a processor may break in any way
        raise Unready(
            f"the processor of this checkpoint fails on a prompt with {images(row)} ({said(error)}). Its chat "
            f"template wrote {text!r}: there has to be one placeholder for each image."
        ) from error
    return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}


def picture(number: int, size: tuple[int, int]) -> Any:
    """The picture of this number: coloured clouds, different in every place."""
    from PIL import Image

    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (12 * 12 * 3,), generator=generator).tolist()
    return Image.frombytes("RGB", (12, 12), bytes(pixels)).resize(size, Image.Resampling.BICUBIC)


def joined(parts: list[dict[str, Tensor]], pad: int) -> dict[str, Tensor]:
    """Join prompts into one batch. Tensors with one value per token are padded on the left, others are stacked."""
    longest = max(part["input_ids"].shape[1] for part in parts)
    names = dict.fromkeys(name for part in parts for name in part)
    found: dict[str, Tensor] = {}
    for name in names:
        pieces: list[Tensor] = []
        for part in parts:
            if name in part and part[name].shape == part["input_ids"].shape:
                missing = longest - part[name].shape[1]
                pieces.append(nn.functional.pad(part[name], (missing, 0), value=pad if name == "input_ids" else 0))
            elif name in part:
                pieces.append(part[name])
        found[name] = torch.cat(_padded_to_one_size(pieces))
    return found


def _padded_to_one_size(pieces: list[Tensor]) -> list[Tensor]:
    """Pad tensors with zeros to equal sizes in all axes but the first."""
    sizes = [max(axis) for axis in zip(*(piece.shape[1:] for piece in pieces), strict=True)]
    ends = [[wanted - have for wanted, have in zip(sizes, piece.shape[1:], strict=True)][::-1] for piece in pieces]
    return [
        nn.functional.pad(piece, [edge for more in end for edge in (0, more)])
        for piece, end in zip(pieces, ends, strict=True)
    ]
