"""The ends of a processor: the turns that its chat template takes, and its output on a model's device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def chat(question: str, before: Sequence[tuple[str, str]] = ()) -> list[dict[str, Any]]:
    """A question about one image as turns of a chat template; `before`: the turns before it, each with its answer.

    >>> prompt = processor.apply_chat_template(chat("what is it ?"), add_generation_prompt=True)
    """
    turns: list[dict[str, Any]] = []
    for asked, answer in before:
        turns += [_turn("user", asked), _turn("assistant", answer)]
    turns.append(_turn("user", question))
    turns[0]["content"].insert(0, {"type": "image"})
    return turns


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def to_model(inputs: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Move tensors to the model's device. Floating-point tensors get the model's dtype, others keep their own.

    >>> inputs = to_model(processor(images=image, text=text, return_tensors="pt"), model)
    """
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }
