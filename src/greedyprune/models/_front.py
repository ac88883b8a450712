"""Standing in front of a module's method while a model is pruned, without touching its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class Attached:
    """What is attached to a model, so that the model cannot be copied or pickled meanwhile."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a pruned model cannot be copied or pickled: call remove() first, and prune the copy.")


def put_in_front(module: nn.Module, name: str, made: Any) -> Callable[[], None]:
    """Give a module an attribute in front of its own method. The function returned puts back what was there before.

    If somebody else stands in front of the attribute by then, it stays: it is called as long as theirs is there.
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
