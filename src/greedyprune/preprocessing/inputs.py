"""Move a processor's output to a model's device and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def to_model(inputs: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Move tensors to the model's device. Floating-point tensors get the model's dtype, others keep their own.

    >>> inputs = to_model(processor(images=image, text=text, return_tensors="pt"), model)
    """
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }
