"""`prune`: attach a method to a model; and its handle, which reports and undoes."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from greedyprune.attach.hooks import Hooks
from greedyprune.budget import PerLayer, as_budgets
from greedyprune.hints import Relevance, as_protect, as_relevance
from greedyprune.method import Method
from greedyprune.models.needs import check_needs
from greedyprune.models.parts import find_parts
from greedyprune.models.release import check_release
from greedyprune.naming import as_method, method_class
from greedyprune.policy import Policy, Positions
from greedyprune.registry import METHODS
from greedyprune.selection import PruneWarning, Report, Selection
from greedyprune.stages import Depths, Layer, Layers, as_stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import TypeAlias

    from torch import Tensor

    from greedyprune.budget import Budget, LayerAverage, Total
    from greedyprune.models.parts import Parts
    from greedyprune.stages import Stage

    Given: TypeAlias = Sequence[Iterable[int] | Tensor | None] | Tensor
    """What `protect` may be: one entry per image of the call."""
    Kept: TypeAlias = Budget | LayerAverage | Total | PerLayer | Sequence[Budget | LayerAverage]
    """What `keep` may be."""

_USING: ContextVar[tuple[tuple[Any, Policy], ...]] = ContextVar("greedyprune_using", default=())
"""What `using` overrides in this thread, innermost last."""
_PRUNED: weakref.WeakKeyDictionary[Any, weakref.ref[Pruned]] = weakref.WeakKeyDictionary()
"""The text models that carry hooks now, with the handle of each: pruning one twice would cut the cut."""


def prune(
    model: Any,
    method: Method | type[Method] | str | Mapping[str, Any] = "greedyprune",
    keep: Kept | None = None,
    *,
    at: Stage | str | None = None,
    positions: Positions = "original",
    protect: Given | None = None,
    relevance: Sequence[Tensor | None] | None = None,
) -> Pruned:
    """Prune the visual tokens of every prompt that `model` sees, until the handle is removed.

    `method`: an instance, a class, a registered name, or a plain dict. `keep`: an int (visual tokens kept per image),
    `Ratio(0.25)`, `LayerAverage(64)` (so many per decoder layer on average), a list with one of these per image of the
    call, `Total(128)` for all images of a prompt together, `PerFrame(8)` for every frame of a video, or
    `PerLayer({8: Ratio(0.5), 16: Ratio(0.25)})`. `at`: `Input()`, `Layer(l)`, or several cuts, `Layers((8,
    16))` or `Depths((1/4, 1/2))`, after the last of which `keep` stay, or what they print as, such as "layer:2"; the
    method's own by default. `positions`:
    "original" ids, or "compact" ones without gaps, which is how several published VQA numbers were made (grounding
    suffers). `protect`: per image of the call the visual tokens that must be kept, None for an image without: `[[0, 5],
    None]`; they count towards `keep`. `relevance`: per image of the call how relevant each token is to the question by
    a model of your own, such as a CLIP text tower, (n,); methods that weigh relevance (CDPruner) use it.
    The model's weights, config and forward stay as they are: everything is done by hooks, and tokens that are dropped
    leave the sequence and the KV cache physically. Positions stay the original ones.

        with gp.prune(model, gp.GreedyPrune(), keep=64) as pruned:
            out = model.generate(**inputs)
        print(pruned.report())

    Without `with`, call `.remove()` on what it returns, or `gp.remove(model)`. Raises TypeError or ValueError for a
    method, budget, stage or model that cannot work, before anything is attached; RuntimeError if the model is pruned
    already; NotImplementedError if this release of transformers lacks something that pruning relies on.
    """
    if keep is None:
        raise TypeError("keep is missing: write keep=64 for 64 visual tokens per image, or keep=Ratio(0.25).")
    method = as_method(method)
    as_budgets(keep)
    parts = find_parts(model)
    policy = _policy(parts, method, keep, at, positions, protect, as_relevance(relevance))
    if parts.text in _PRUNED:
        raise RuntimeError(
            "this model is pruned already: call remove() on the first handle, leave its with block, or call "
            "gp.remove(model) if the handle is lost."
        )
    check_release(parts)
    return Pruned(parts, policy)


def remove(model: Any) -> None:
    """Take the pruning off a model whose handle is lost, in a notebook say; nothing happens if it is not pruned.

    gp.prune(model, keep=64)  # whoever runs this twice has no handle of the first
    gp.remove(model)
    """
    for module in model.modules() if hasattr(model, "modules") else ():
        handle = _PRUNED[module]() if module in _PRUNED else None
        if handle is not None:
            handle.remove()


def _policy(
    parts: Parts,
    method: Method,
    keep: Any,
    at: Stage | str | None,
    positions: Positions,
    protect: Given | None,
    relevance: Relevance,
) -> Policy:
    """What was asked for, checked against the model."""
    budgets, at = as_budgets(keep), None if at is None else as_stage(at)
    if positions not in get_args(Positions):
        raise ValueError(f"positions={positions!r} is unknown: choose one of {', '.join(get_args(Positions))}.")
    guarded = as_protect(protect)
    if any(guarded) and method.merges:
        raise ValueError(f"{type(method).__name__} merges tokens and cannot protect any: leave out protect.")
    if any(each is not None for each in relevance) and not method.weighs_relevance:
        weighing = ", ".join(name for name in METHODS if method_class(name).weighs_relevance)
        warnings.warn(
            f"{type(method).__name__} does not weigh relevance, so relevance= changes nothing; these do: {weighing}.",
            PruneWarning,
            stacklevel=3,
        )
    place = method.at if at is None else at
    if isinstance(budgets, PerLayer):
        if at is not None:
            raise ValueError(f"keep={budgets!r} says itself where to cut: leave out at={at!r}.")
        place = Layers(tuple(budgets.schedule))
    if isinstance(place, Depths):
        place = place.of(len(parts.layers))
    policy = Policy(method, budgets, place, positions, guarded, len(parts.layers), relevance)
    check_needs(parts, policy)
    stages = [Layer(index) for index in place.indices] if isinstance(place, Layers) else [place]
    for stage in stages:
        method.check_stage(stage)
        parts.check_stage(stage)
    return policy


class Pruned:
    """The handle of a pruned model: `selections` and `report()` tell what the last call did, `remove()` undoes it."""

    def __init__(self, parts: Parts, policy: Policy) -> None:
        self._parts, self._policy = parts, policy
        self._last: tuple[Report, list[Selection]] | None = None
        self._mine = threading.local()
        self._hooks, self._removed = Hooks(parts, self._current, self._done), False
        _PRUNED[parts.text] = weakref.ref(self)

    def _current(self) -> Policy:
        """The policy of a call that starts now, in this thread."""
        return next((policy for owner, policy in reversed(_USING.get()) if owner is self), self._policy)

    @contextmanager
    def using(
        self,
        method: Method | type[Method] | str | Mapping[str, Any] | None = None,
        keep: Kept | None = None,
        *,
        at: Stage | str | None = None,
        positions: Positions | None = None,
        protect: Given | None = None,
        relevance: Sequence[Tensor | None] | None = None,
    ) -> Iterator[Pruned]:
        """Prune the calls inside otherwise: what is left out stays as it is. Other threads are not touched.

        `protect=[]` protects nothing, `relevance=[]` says nothing.

        with pruned.using(keep=gp.Ratio(0.5)):
            out = model.generate(**inputs)
        """
        if self._removed:
            raise RuntimeError("this handle was removed, so nothing would be pruned: call gp.prune(model, ...) again.")
        now = self._current()
        if at is None and method is None and not isinstance(now.keep, PerLayer) and not isinstance(keep, PerLayer):
            at = now.at  # a new method brings its own stage, all else stays
        policy = _policy(
            self._parts,
            now.method if method is None else as_method(method),
            now.keep if keep is None else keep,
            at,
            now.positions if positions is None else positions,
            now.protect if protect is None else protect,
            now.relevance if relevance is None else as_relevance(relevance),
        )
        token = _USING.set((*_USING.get(), (self, policy)))
        try:
            yield self
        finally:
            _USING.reset(token)

    def _done(self, report: Report, selections: list[Selection]) -> None:
        self._last = self._mine.last = (report, selections)

    def _seen(self) -> tuple[Report, list[Selection]]:
        """The last call of this thread, or of any thread if this one made none."""
        empty = Report(type(self._policy.method).__name__, self._policy.place), []
        return getattr(self._mine, "last", None) or self._last or empty

    @property
    def selections(self) -> list[Selection]:
        """What was kept of each image of the last prompt, in the user's own visual token indices."""
        return list(self._seen()[1])

    def report(self) -> Report:
        """The counts of the last prompt."""
        return self._seen()[0]

    def remove(self) -> None:
        """Take the pruning off. The model is as it was; caches it filled stay usable only while pruned. Idempotent.

        Waits for forwards that other threads run; raises RuntimeError inside a forward of this thread.
        """
        if self._removed:  # the model may carry the hooks of another handle by now
            return
        self._hooks.remove()
        self._removed = True
        _PRUNED.pop(self._parts.text, None)

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
        return f"Pruned({self._parts.family.model_type}, {policy.method!r}, keep={policy.keep}, at={policy.place})"
