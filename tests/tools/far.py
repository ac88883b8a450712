"""A CPU that plays a GPU: chosen tensors say that they lie on CUDA, and what the host would wait for is noted.

All arithmetic stays that of the CPU. Tensors made from such a tensor, or for the device "cuda", lie there too. Mixing
them with tensors of the host raises, as it does on a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import greedyprune
from greedyprune.ops.kernels import chosen

DEVICE = torch.device("cuda", 0)
ROOMS = {str(Path(greedyprune.__file__).parent): "greedyprune", "/transformers/": "transformers"}
READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__"}
CHOICES = ("__getitem__", "__setitem__")


def is_far(x: object) -> bool:
    """True if this tensor plays one on the GPU."""
    return isinstance(x, Tensor) and bool(getattr(x, "plays_far", False))


def sent(x: Tensor) -> Tensor:
    """Mark a tensor as one on the GPU."""
    x.plays_far = True  # type: ignore[attr-defined]
    return x


class Reads(TorchDispatchMode):
    """Notes the operations inside others that read values, or whose result's size depends on values."""

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


class Far(TorchFunctionMode):
    """Runs a block in which marked tensors lie on a GPU. `found`: whose operation made the host wait, and its name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, owner = getattr(func, "__name__", str(func)), getattr(getattr(func, "__self__", None), "__name__", "")
        flat = tree_flatten((args, kwargs))[0]
        far = is_far(args[0]) if name == "to" else any(map(is_far, flat))
        if name == "__get__" and owner in ("device", "is_cuda", "is_cpu"):
            answers = {"device": DEVICE, "is_cuda": True, "is_cpu": False}
            return answers[owner] if is_far(args[0]) else func(*args)
        if name == "pin_memory":
            pinned = args[0].clone()
            pinned.plays_pinned = True
            return pinned
        target = _target(name, args, kwargs)
        if name == "cpu" or (target is not None and target.type == "cpu" and name in ("to", "copy_")):
            return self._read(func, name, args) if far else func(*args, **kwargs)
        to_far = target is not None and target.type == "cuda"
        args, kwargs = tree_map(_near, (args, kwargs))
        if name == "to" and to_far and not far:
            waiting = not (getattr(args[0], "plays_pinned", False) and kwargs.get("non_blocking"))
            return self._sent(name, func(*args, **kwargs), waiting)
        if name in ("tensor", "as_tensor", "new_tensor", "from_numpy", "asarray") and (far or to_far):
            return self._sent(name, func(*args, **kwargs), waiting=True)
        if name in READS and far:
            return self._read(func, name, args)
        if far:
            self._mixed(name, args)
        noted: list[str] = []
        with Reads(noted):
            made = func(*args, **kwargs)
        if far:
            for each in noted[:1]:
                self._note(each)
        if (far or to_far) and not name.startswith("__get__"):
            tree_map(lambda each: sent(each) if isinstance(each, Tensor) else each, made)
        elif far and isinstance(made, Tensor):
            sent(made)
        return made

    def _read(self, func: Any, name: str, args: Any) -> Any:
        self._note(name)
        made = func(*tree_map(_near, args)) if name != "to" else args[0].cpu()
        return made.clone().detach() if isinstance(made, Tensor) else made

    def _sent(self, name: str, made: Tensor, waiting: bool) -> Tensor:
        if waiting:
            self._note(f"{name} GPU")
        return sent(made.clone())

    def _mixed(self, name: str, args: Any) -> None:
        """Refuse host tensors beside those of the GPU; an index of the host is copied, and the host waits."""
        if name in CHOICES:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            for each in index:
                if isinstance(each, (list, range)) or (isinstance(each, Tensor) and each.ndim and not is_far(each)):
                    self._note(f"{name} of the host")
            return
        for each in tree_flatten(args)[0]:
            if isinstance(each, Tensor) and each.ndim and not is_far(each):
                raise RuntimeError(f"{name} of a tensor on the GPU and one of shape {tuple(each.shape)} on the host")

    def _note(self, name: str) -> None:
        frame = sys._getframe(2)
        while frame is not None:
            for path, who in ROOMS.items():
                if path in frame.f_code.co_filename:
                    self.found.append((who, f"{name} at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"))
                    return
            frame = frame.f_back
        self.found.append(("test", name))

    def of(self, who: str) -> list[str]:
        """The operations that one of the packages waited for."""
        return [what for whose, what in self.found if whose == who]


def waits(run: Callable[[], object], model: nn.Module | None = None) -> list[str]:
    """The operations of this library for which the host would wait for a GPU, each with its place."""
    with far(model) as found:
        run()
    return found.of("greedyprune")


def _target(name: str, args: Any, kwargs: Any) -> torch.device | None:
    """The device that an operation names; None if it names none."""
    given = [kwargs.get("device"), *(args[1:] if name == "to" else ())]
    for each in given:
        if isinstance(each, torch.device) or (isinstance(each, str) and each in ("cpu", "cuda", "meta")):
            return torch.device(each)
        if name == "to" and isinstance(each, Tensor):
            return DEVICE if is_far(each) else torch.device("cpu")
    return None


def _near(x: Any) -> Any:
    """The same argument for the CPU."""
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == "cuda" else x


class _Event:
    """A mark on a stream of the GPU that is played."""

    noted: Callable[[str], None] = staticmethod(lambda name: None)

    def __init__(self, **_: object) -> None: ...

    def record(self, stream: object) -> None: ...

    def elapsed_time(self, other: object) -> float:
        return 1.0

    def synchronize(self) -> None:
        type(self).noted("Event.synchronize")


@contextmanager
def far(model: nn.Module | None = None) -> Iterator[Far]:
    """Run a block in which the model, and all tensors that were `sent`, lie on a GPU."""
    every = [] if model is None else [*model.parameters(), *model.buffers()]
    mode = Far()
    for each in every:
        sent(each)
    try:
        with (
            mock.patch.object(torch.cuda, "Event", _Event),
            mock.patch.object(torch.cuda, "current_stream", return_value=None),
            mock.patch.object(chosen, "KINDS", frozenset()),
            mock.patch.object(_Event, "noted", staticmethod(mode._note)),
            mode,
        ):
            yield mode
    finally:
        for each in every:
            del each.plays_far  # type: ignore[attr-defined]
