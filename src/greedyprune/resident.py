"""Devices on which a selection waits for nothing: what it computes stays there, and the host reads no value between.

Each value that the host reads makes it wait for all work that the device still has before it, and a selection with
hundreds of such reads costs more than it saves. On the CPU a read is free, so it has engines of its own. `read` and
`send` move values between host and device with as few waits as there can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = frozenset({"cuda"})
"""The types of such devices. They compute in float64, and a read makes the host wait."""


def resident(x: Tensor) -> bool:
    """True if a selection from these rows stays on their device."""
    return x.device.type in KINDS


def read(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors on the CPU, with one wait for all of them; none if all of them lie there."""
    far = [each for each in tensors if each.device.type != "cpu"]
    if not far:
        return list(tensors)
    flat = [each.flatten().view(torch.uint8).to(far[0].device) for each in far]
    whole, near, start = torch.cat(flat).cpu(), list[Tensor](), 0
    for each, part in zip(far, flat, strict=True):
        mine = whole[start : start + part.numel()].clone()  # a copy of its own is aligned for any type
        near.append(mine.view(each.dtype).view(each.shape))
        start += part.numel()
    rest = iter(near)
    return [each if each.device.type == "cpu" else next(rest) for each in tensors]


def send(x: Tensor, device: torch.device) -> Tensor:
    """The same tensor on a device. From the CPU to a GPU the host does not wait for the copy."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
