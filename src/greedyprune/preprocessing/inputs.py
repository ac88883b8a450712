"""A processor's output, brought to where a model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def to_model(inputs: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The tensors on the model's device, floating-point ones in its type; integers and masks keep theirs.

    >>> inputs = to_model(processor(images=image, text=text, return_tensors="pt"), model)
    """
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }
