"""Replace a module's method on the instance while a model is pruned. The class stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class Attached:
    """The base class of everything that is attached to a model. It stops the model from being copied or pickled."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a pruned model cannot be copied or pickled: call remove() first, and prune the copy.")


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
