"""`prune`: attach a method to a model; and its handle, which reports and undoes."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

from greedyprune.attach.decide import Policy
from greedyprune.attach.hooks import Hooks
from greedyprune.attach.parts import find_parts
from greedyprune.attach.report import Report, Selection
from greedyprune.budget import as_budgets
from greedyprune.method import Method, as_method

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from greedyprune.budget import Budget
    from greedyprune.stages import Stage

_PRUNED: weakref.WeakSet[Any] = weakref.WeakSet()
"""The text models that carry hooks now: pruning one twice would cut the cut."""


def prune(
    model: Any,
    method: Method | type[Method] | str = "greedyprune",
    keep: Budget | Sequence[Budget] | None = None,
    *,
    at: Stage | None = None,
) -> Pruned:
    """Prune the visual tokens of every prompt that `model` sees, until the handle is removed.

    `method`: an instance, a class or a registered name. `keep`: an int (visual tokens kept per image), `Ratio(0.25)`,
    or a list with one of these per image of the call. `at`: `Input()` or `Layer(l)`, the method's own stage by default.
    The model's weights, config and forward stay as they are: everything is done by hooks, and tokens that are dropped
    leave the sequence and the KV cache physically. Positions stay the original ones.

        with gp.prune(model, gp.GreedyPrune(), keep=64) as pruned:
            out = model.generate(**inputs)
        print(pruned.report())

    Without `with`, call `.remove()` on what it returns. Raises TypeError or ValueError for a method, budget, stage or
    model that cannot work, before anything is attached; RuntimeError if the model is pruned already.
    """
    if keep is None:
        raise TypeError("keep is missing: write keep=64 for 64 visual tokens per image, or keep=Ratio(0.25).")
    method = as_method(method)
    at = method.at if at is None else at
    method.check_stage(at)
    parts = find_parts(model)
    parts.check_stage(at)
    policy = Policy(method, as_budgets(keep), at)
    if parts.text in _PRUNED:
        raise RuntimeError("this model is pruned already: call remove() on the first handle, or leave its with block.")
    return Pruned(parts, policy)


class Pruned:
    """The handle of a pruned model: `selections` and `report()` tell what the last call did, `remove()` undoes it."""

    def __init__(self, parts: Any, policy: Policy) -> None:
        self._parts, self._policy = parts, policy
        self._last: tuple[Report, list[Selection]] | None = None
        self._mine = threading.local()
        self._hooks = Hooks(parts, lambda: self._policy, self._done)
        _PRUNED.add(parts.text)

    def _done(self, report: Report, selections: list[Selection]) -> None:
        self._last = self._mine.last = (report, selections)

    def _seen(self) -> tuple[Report, list[Selection]]:
        """The last call of this thread, or of any thread if this one made none."""
        empty = Report(type(self._policy.method).__name__, str(self._policy.at)), []
        return getattr(self._mine, "last", None) or self._last or empty

    @property
    def selections(self) -> list[Selection]:
        """What was kept of each image of the last prompt, in the user's own visual token indices."""
        return list(self._seen()[1])

    def report(self) -> Report:
        """The counts of the last prompt."""
        return self._seen()[0]

    def remove(self) -> None:
        """Take the pruning off. The model is as it was; caches it filled stay usable only while pruned. Idempotent."""
        self._hooks.remove()
        _PRUNED.discard(self._parts.text)

    def __enter__(self) -> Pruned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a pruned model cannot be copied or pickled: call remove() first, and prune the copy.")

    def __repr__(self) -> str:
        policy = self._policy
        return f"Pruned({self._parts.family.model_type}, {policy.method!r}, keep={policy.keep}, at={policy.at!r})"
