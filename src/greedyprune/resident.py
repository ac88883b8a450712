"""Devices on which a selection waits for nothing: what it computes stays there, and the host reads no value between.

Each value that the host reads makes it wait for all work that the device still has before it, and a selection with
hundreds of such reads costs more than it saves. On the CPU a read is free, so it has engines of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

KINDS = frozenset({"cuda"})
"""The types of such devices. They compute in float64, and a read makes the host wait."""


def resident(x: Tensor) -> bool:
    """True if a selection from these rows stays on their device."""
    return x.device.type in KINDS
