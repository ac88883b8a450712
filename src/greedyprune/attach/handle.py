"""`prune` attaches a policy to a model. `Pruned` is the handle: it makes requests, reports, and removes the pruning."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from greedyprune.attach.hooks.decoder import DecoderHooks
from greedyprune.attach.hooks.encoders import FeatureWatch, TowerHooks, carried
from greedyprune.attach.hooks.generate import GenerateWatch
from greedyprune.attach.hooks.outer import OuterHooks
from greedyprune.attach.request import Request, Requests, Result, empty_report
from greedyprune.budget import PerLayer
from greedyprune.hints import Hints, as_protect, as_relevance
from greedyprune.method import Method
from greedyprune.models._front import Attached
from greedyprune.models.needs import check_needs, check_restore, warn_of_pages
from greedyprune.models.parts import find_parts
from greedyprune.models.release import check_release, leave_untraced
from greedyprune.naming import as_method
from greedyprune.policy import Policy
from greedyprune.registry import DEFAULT, METHODS
from greedyprune.selection import PruneWarning
from greedyprune.stages import Layer, Layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import TypeAlias

    from torch import Tensor

    from greedyprune.budget import Budget, LayerAverage, Total
    from greedyprune.models.parts import Parts
    from greedyprune.policy import Positions, Restore
    from greedyprune.selection import Report, Selection
    from greedyprune.stages import Stage

    Given: TypeAlias = Sequence[Iterable[int] | Tensor | None] | Tensor
    """The types of `protect`: one entry per image of the call."""
    Kept: TypeAlias = Budget | LayerAverage | Total | PerLayer | str | Sequence[Budget | LayerAverage | str]
    """The types of `keep`."""
    Named: TypeAlias = Method | type[Method] | str | Mapping[str, Any]
    """The types of `method`."""

_PRUNED: weakref.WeakKeyDictionary[Any, weakref.ref[Pruned]] = weakref.WeakKeyDictionary()
"""The text models that have hooks now, with the handle of each. A second pruning would cut the sequence twice."""


def prune(
    model: Any,
    method: Named | Policy = DEFAULT,
    keep: Kept | None = None,
    *,
    at: Stage | str | None = None,
    positions: Positions | None = None,
    restore: Restore | None = None,
    protect: Given | None = None,
    relevance: Sequence[Tensor | None] | None = None,
) -> Pruned:
    """Prune the visual tokens of every prompt that `model` sees, until the handle is removed.

    - `method`: an instance, a class, a registered name or a plain dict; or a whole `Policy`. The default is
      SoftGreedyPrune.
    - `keep`: an int (visual tokens kept per image), `Ratio(0.25)`, `LayerAverage(64)` (the average over decoder
      layers), a list with one of these per image of the call, `Total(128)` for all images of a prompt together,
      `PerFrame(8)` for every frame of a video, or `PerLayer({8: Ratio(0.5), 16: Ratio(0.25)})`; or the text of one,
      such as "25%" (see `parse_keep`).
    - `at`: `Input()`, `Layer(l)`, or several cuts, `Layers((8, 16))` or `Depths((1/4, 1/2))`; or its text, such as
      "layer:2". After the last cut, `keep` tokens are left. The default is the method's own stage.
    - `positions`: "original" position ids (the default), or "compact" ones without gaps. Several published VQA numbers
      use compact ids; grounding suffers from them.
    - `restore`: what is added to the attention scores of the kept tokens while a prompt is read, in the layers behind
      the cut: "size", log of the number of tokens that each stands for; "distance", log(2 - D), D the decay of the
      rotary embedding over the distance; or "both" (RESTORE, arXiv 2606.01711). "none" is the default.
    - `protect`: per image of the call, the visual tokens that must stay, or None: `[[0, 5], None]`. They count towards
      `keep`.
    - `relevance`: per image of the call, (n,), the relevance of each token to the question by your own model, such as a
      CLIP text tower. Methods that weigh relevance (CDPruner) use it.

    The model's weights, config and forward stay as they are, since hooks do everything. Dropped tokens are physically
    removed from the sequence and from the KV cache.

        with gp.prune(model, gp.GreedyPrune(), keep=64) as pruned:
            out = model.generate(**inputs)
        print(pruned.report())

    Without `with`, call `.remove()` on the handle, or `gp.remove(model)`. If several requests run at a time, or if
    answers are streamed, give each request its own object: `pruned.request(keep=32).generate(**inputs)`.

    Raises TypeError or ValueError if a method, budget, stage or model cannot work; RuntimeError if the model is pruned
    already; NotImplementedError if this release of transformers lacks something that pruning relies on. If it raises,
    nothing is attached.
    """
    if keep is None and not isinstance(method, Policy):
        raise TypeError("keep is missing: write keep=64 for 64 visual tokens per image, or keep=Ratio(0.25).")
    wished = _policy(None, method, keep, at, positions, restore)
    parts = find_parts(model)
    policy, hints = _checked(parts, wished, Hints(as_protect(protect), as_relevance(relevance)))
    if parts.text in _PRUNED:
        raise RuntimeError(
            "this model is pruned already: call remove() on the first handle, leave its with block, or call "
            "gp.remove(model) if the handle is lost."
        )
    check_release(parts)
    warn_of_pages(parts, policy)
    leave_untraced()
    return Pruned(parts, policy, hints)


def remove(model: Any) -> None:
    """Remove the pruning from a model whose handle is lost, for example in a notebook.

    It does nothing if the model is not pruned.

        gp.prune(model, keep=64)  # the handle is lost, and a second run of this line would raise
        gp.remove(model)
    """
    for module in model.modules() if hasattr(model, "modules") else ():
        handle = _PRUNED[module]() if module in _PRUNED else None
        if handle is not None:
            handle.remove()


def _policy(
    base: Policy | None,
    method: Named | Policy | None,
    keep: Any,
    at: Stage | str | None,
    positions: Positions | None,
    restore: Restore | None,
) -> Policy:
    """Make a policy from the given values. `base` gives the others, but a new method brings its own stage."""
    if isinstance(method, Policy):
        base, method = method, None
    if base is None:
        assert method is not None
        return Policy(as_method(method), keep, cast("Stage", at), positions or "original", restore or "none")
    if at is None and method is None and not isinstance(base.keep, PerLayer) and not isinstance(keep, PerLayer):
        at = base.at
    return Policy(
        base.method if method is None else as_method(method),
        base.keep if keep is None else keep,
        cast("Stage", at),
        positions or base.positions,
        restore or base.restore,
    )


def _checked(parts: Parts, policy: Policy, hints: Hints) -> tuple[Policy, Hints]:
    """Return the policy and the hints for this model. Raises if they do not fit the method or the model."""
    method = policy.method
    if any(hints.protect) and method.merges:
        raise ValueError(f"{type(method).__name__} merges tokens and cannot protect any: leave out protect.")
    if any(each is not None for each in hints.relevance) and not method.weighs_relevance:
        weighing = ", ".join(name for name in METHODS if as_method(name).weighs_relevance)
        warnings.warn(
            f"{type(method).__name__} does not weigh relevance, so relevance= changes nothing. These do: {weighing}.",
            PruneWarning,
            stacklevel=3,
        )
    policy = policy.on(len(parts.layers))
    check_needs(parts, policy)
    policy.check_stages()
    check_restore(parts, policy)
    for stage in [Layer(index) for index in policy.at.indices] if isinstance(policy.at, Layers) else [policy.at]:
        parts.check_stage(stage)
    return policy, hints


class Pruned(Attached):
    """The handle of a pruned model. `request` and `using` change single calls; `remove` undoes everything.

        pruned: gp.Pruned = gp.prune(model, keep=64)
        out = model.generate(**inputs)
        print(pruned.report())

    `selections` and `report()` describe the last prompt. If several requests run at a time, ask each one.
    """

    def __init__(self, parts: Parts, policy: Policy, hints: Hints) -> None:
        self._parts, self._requests = parts, Requests(parts.holders, policy, hints)
        self._outer = OuterHooks(parts, self._wish, carried)
        running = self._outer.running
        self._inner = (
            DecoderHooks(parts),
            TowerHooks(parts, self._wish, running),
            FeatureWatch(parts, running),
            GenerateWatch(parts, self._wish),
        )
        try:
            for hooks in (self._outer, *self._inner):
                hooks.register()
        except BaseException:
            self.remove()
            raise
        _PRUNED[parts.text] = weakref.ref(self)

    def _wish(self) -> Request:
        """Return the wish for a call that starts now. The hooks call this, so the handle lives as long as they do."""
        return self._requests.wish()

    def request(
        self,
        method: Named | Policy | None = None,
        keep: Kept | None = None,
        *,
        at: Stage | str | None = None,
        positions: Positions | None = None,
        restore: Restore | None = None,
        protect: Given | None = None,
        relevance: Sequence[Tensor | None] | None = None,
    ) -> Request:
        """Make a request. Call `request.generate(**inputs)` once, in any thread or task, then `request.report()`.

        It takes the arguments of `prune`, and raises the same errors. The handle, or the `using` block around, gives
        the arguments that are left out. `protect=[]` protects nothing, and `relevance=[]` gives no relevance.

            request = pruned.request(keep=gp.Ratio(0.5))
            out = request.generate(**inputs)
            print(request.selections[0].k)
        """
        self._requests.check_attached()
        now = self._requests.in_force() or self._requests.own
        policy = _policy(now.policy, method, keep, at, positions, restore)
        hints = Hints(
            now.hints.protect if protect is None else as_protect(protect),
            now.hints.relevance if relevance is None else as_relevance(relevance),
        )
        return Request(self._requests, *_checked(self._parts, policy, hints))

    def using(
        self,
        method: Named | Policy | None = None,
        keep: Kept | None = None,
        *,
        at: Stage | str | None = None,
        positions: Positions | None = None,
        restore: Restore | None = None,
        protect: Given | None = None,
        relevance: Sequence[Tensor | None] | None = None,
    ) -> Request:
        """Make a request for the calls inside a `with` block. Arguments that are left out do not change.

        Start threads with `target=request.generate`. A plain thread that was started while this was the only open block
        is assumed to belong to it, and a `PruneWarning` says so. If there are others, it follows the handle.

            with pruned.using(keep=gp.Ratio(0.5)) as request:
                out = model.generate(**inputs)
            print(request.report())
        """
        return self.request(
            method, keep, at=at, positions=positions, restore=restore, protect=protect, relevance=relevance
        )

    @property
    def policy(self) -> Policy:
        """The method, budget, place and positions of all calls that no request prunes otherwise."""
        return self._requests.own.policy

    # -- results

    @property
    def selections(self) -> list[Selection]:
        """The kept tokens of each image of the last prompt, as indices of its original visual tokens.

        Inside a `using` block whose request ran, it is the last prompt of that request.
        """
        return list(self._seen().selections)

    def report(self) -> Report:
        """Return the counts of the last prompt.

        Inside a `using` block whose request ran, it is the last prompt of that request.
        """
        return self._seen().report

    def _seen(self) -> Result:
        request = self._requests.in_force()
        mine = None if request is None else request.result
        return mine or self._requests.last or Result(partial(empty_report, self._requests.own.policy), [])

    def remove(self) -> None:
        """Remove the pruning. The model is as it was. A second call does nothing.

        KV caches that the pruned model filled can be used only while it is pruned. This method waits for forwards in
        other threads. Raises RuntimeError inside a forward of this thread.
        """
        if self._requests.removed:  # the model may carry the hooks of another handle by now
            return
        self._outer.close()
        for hooks in (*self._inner, self._outer):
            hooks.remove()
        self._requests.removed = True
        _PRUNED.pop(self._parts.text, None)

    def __enter__(self) -> Pruned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        policy = self.policy
        return f"Pruned({self._parts.family.model_type}, {policy.method!r}, keep={policy.keep}, at={policy.place})"
