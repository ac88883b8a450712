"""What a computation costs, counted and not timed: its products' arithmetic, operations and largest tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class Sizes(TorchDispatchMode):
    """Counts the operations of a block, and notes the number of entries of the largest tensor that one makes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.operations += 1
        for each in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.untyped_storage().nbytes() // each.element_size())
        return found


def flops(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def sizes(run: Callable[[], object]) -> Sizes:
    """The operations of a call, and its largest tensor."""
    with Sizes() as found:
        run()
    return found
