"""The ends of a processor: the turns that its chat template takes, and its output on a model's device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def chat(question: str, before: Sequence[tuple[str, str]] = (), images: int = 1) -> list[dict[str, Any]]:
    """A question about images as turns of a chat template; `before`: the turns before it, each with its answer.

    The images stand in front of the first text.

    >>> prompt = processor.apply_chat_template(chat("what is it ?"), add_generation_prompt=True)
    """
    turns: list[dict[str, Any]] = []
    for asked, answer in before:
        turns += [_turn("user", asked), _turn("assistant", answer)]
    turns.append(_turn("user", question))
    turns[0]["content"] = [*({"type": "image"} for _ in range(images)), *turns[0]["content"]]
    return turns


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def check_question(question: str, processor: Any) -> None:
    """Raise ValueError if a question holds the text that stands for a picture in the processor's prompts."""
    mark = getattr(processor, "image_token", None)
    if mark and mark in question:
        raise ValueError(f"the question holds {mark!r}, which stands for a picture: leave it out.")


@contextmanager
def padded_left(processor: Any) -> Iterator[None]:
    """Inside, the processor pads prompts on the left, since generation continues at the right end."""
    tokenizer = getattr(processor, "tokenizer", processor)
    before = tokenizer.padding_side
    tokenizer.padding_side = "left"
    try:
        yield
    finally:
        tokenizer.padding_side = before


def to_model(inputs: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Move tensors to the model's device. Floating-point tensors get the model's dtype, others keep their own.

    >>> inputs = to_model(processor(images=image, text=text, return_tensors="pt"), model)
    """
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }
