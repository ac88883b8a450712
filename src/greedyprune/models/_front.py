"""What this library attaches to a model: methods replaced on the instance, and hooks. Classes stay as they are."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn
    from torch.utils.hooks import RemovableHandle


class Attached:
    """The base class of everything that is attached to a model. It stops the model from being copied or pickled."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a pruned model cannot be copied or pickled: call remove() first, and prune the copy.")


class LateHooks(Attached):
    """Hooks that are registered when a forward first needs them: all of them, or none.

    `register` yields the handle of each hook as it registers it. A forward of another thread may run meanwhile: torch
    calls a hook that it finds half registered without the keyword arguments, and then the hook has to do nothing.
    """

    _lock = threading.Lock()
    """One for all: torch numbers hooks without a lock, and two models may share a module."""

    def __init__(self, register: Callable[[], Iterator[RemovableHandle]]) -> None:
        self._register, self._handles, self._removed = register, list["RemovableHandle"](), False

    def ensure(self) -> None:
        """Register the hooks, if no other forward has, and `remove` was not called meanwhile."""
        with self._lock:
            if self._handles or self._removed:
                return
            handles: list[RemovableHandle] = []
            try:
                handles.extend(self._register())
                self._handles = handles
            finally:
                if self._handles is not handles:  # an interrupt
                    for handle in handles:
                        handle.remove()

    def remove(self) -> None:
        """Remove the hooks for good."""
        with self._lock:
            self._removed = True
            for handle in self._handles:
                handle.remove()
            self._handles.clear()


def put_in_front(module: nn.Module, name: str, made: Any) -> Callable[[], None]:
    """Set an instance attribute that hides the module's own method. Returns a function that undoes this.

    The undo restores the attribute that was there before. It does nothing if other code has since replaced ours.
    """
    own, before = vars(module), vars(module).get(name)
    own[name] = made

    def undo() -> None:
        if own.get(name) is not made:
            return
        if before is not None:
            own[name] = before
        else:
            del own[name]

    return undo


def own_hooks(model: nn.Module) -> Iterator[tuple[dict[int, Any], int]]:
    """Yield every hook of this library on a model and its parts, as the module's dict of hooks and the key in it.

    Hooks of transformers do not count.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if name.endswith("_hooks") and value:
                hooks = cast("dict[int, Any]", value)
                yield from [(hooks, key) for key, hook in hooks.items() if _home(hook).startswith("greedyprune")]


def _home(hook: Any) -> str:
    """The module that a hook was written in; some are made of a method and its first arguments."""
    while isinstance(hook, partial):
        hook = cast("partial[Any]", hook).func
    return getattr(hook, "__module__", "") or ""
