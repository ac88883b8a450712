"""What a computation costs, counted and not timed: its products' arithmetic, operations, largest tensor, and waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
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


class Waits(TorchFunctionMode):
    """Notes each operation of a block for which the host would wait, if the block's tensors lay on a GPU.

    Such are reads of values, results whose size depends on values (`nonzero`, a choice by a boolean mask), and numbers
    of the host that become a tensor.
    """

    COPIES = ("tolist", "numpy", "cpu", "__array__", "tensor", "as_tensor", "new_tensor", "from_numpy", "asarray")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = getattr(func, "__name__", str(func)), (*args, *(kwargs or {}).values())
        numbers = name in ("__getitem__", "__setitem__") and isinstance(args[1], (list, range))
        if name in self.COPIES or numbers or (name == "to" and any(str(each) == "cpu" for each in given[1:])):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class Reads(TorchDispatchMode):
    """Notes the operations below that read values: `item` and `bool` among them. It belongs to `Waits`."""

    NAMES = (
        "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_consecutive", "unique_dim",
        "bincount", "histc", "isin", "repeat_interleave", "equal",
    )  # fmt: skip

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if name in self.NAMES or masked:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def waits(run: Callable[[], object]) -> list[str]:
    """The operations of a call for which the host would wait."""
    with Waits() as found, Reads(found.found):
        run()
    return found.found
