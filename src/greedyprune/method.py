"""Method: the base of every pruning method; and `select`, which runs one on plain tensors, every check made once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from greedyprune.budget import as_budget, count
from greedyprune.keep import Keep
from greedyprune.plain import from_plain
from greedyprune.registry import METHODS, method_class
from greedyprune.stages import Depths, Input, Layer, Layers, Stage

if TYPE_CHECKING:
    from greedyprune.cues import Cues, Need


@dataclass(frozen=True, kw_only=True)
class Method:
    """A pruning method: a frozen dataclass whose fields are its knobs and whose `select` picks the rows that stay.

    It sees one image and no model. `select` is called with checked, finite cues and 0 < k <= n; it returns exactly k
    rows, or, where `exact` is False, at most k.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    stages: ClassVar[tuple[type[Stage], ...]] = (Input, Layer, Layers, Depths)
    equivariant: ClassVar[bool] = True
    """Whether permuting the tokens permutes the selection (False where places, lots or natural ties decide)."""
    merges: ClassVar[bool] = False
    """Whether kept rows are means of several tokens, which cannot protect any."""
    compares_frames: ClassVar[bool] = False
    """Whether it compares the frames of a clip, so that one frame alone says nothing to it."""

    weighs_relevance: ClassVar[bool] = False
    """Whether it weighs `cues.relevance` where that is given."""

    at: Stage = Input()
    """Where tokens are cut unless the call says otherwise: the method's published stage."""

    @property
    def exact(self) -> bool:
        """Whether it returns exactly min(k, n) rows."""
        return True

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        raise NotImplementedError

    def counts(self, k: int, n: int, cuts: int) -> list[int]:
        """How many of n tokens stay after each of several cuts so that k stay after the last: geometrically fewer."""
        shares = [(k / n) ** ((cut + 1) / cuts) if n else 0.0 for cut in range(cuts)]
        return [max(k, min(n, math.floor(n * share + 0.5))) for share in shares[:-1]] + [k]

    def check_stage(self, stage: Stage) -> None:
        """Raise unless this method may run at that stage."""
        if not isinstance(stage, self.stages):
            places = ", ".join(place.__name__ for place in self.stages)
            raise ValueError(f"{type(self).__name__} cannot run at {stage!r}: it runs at {places}.")


def as_method(method: Method | type[Method] | str | Mapping[str, Any]) -> Method:
    """A method as a user gives it: an instance, a class (with its defaults), a registered name, or a plain dict."""
    if isinstance(method, str):
        return method_class(method)()
    if isinstance(method, Mapping):
        return cast("Method", from_plain(method))
    if isinstance(method, type) and issubclass(method, Method):  # pyright: ignore[reportUnnecessaryIsInstance]
        return method()
    if isinstance(method, Method):  # pyright: ignore[reportUnnecessaryIsInstance]
        return method
    raise TypeError(f"{method!r} is no method: pass an instance such as GreedyPrune(), or one of {sorted(METHODS)}.")


def select(method: Method | type[Method] | str | Mapping[str, Any], cues: Cues, keep: object) -> Keep:
    """Choose which visual tokens of one image stay, on plain tensors, with no model anywhere.

    `method` is an instance, a class or a registered name; `keep` an int (that many tokens) or `Ratio(share)`. A budget
    of n or more keeps everything, 0 keeps nothing. Raises ValueError for cues that the method needs and are missing, or
    that hold NaN or infinity, or attention below 0. Runs without gradients and outside autocast.

        keep = select("greedyprune", Cues(features, text=text), 64)
        features, positions = keep(features), keep(positions)
    """
    method = as_method(method)
    k = count(as_budget(keep), cues.n)
    for need in method.needs:
        if not need.met(cues):
            raise ValueError(
                f"{type(method).__name__} needs {type(need).__name__.lower()}, and the cues hold none: {need.remedy}."
            )
    protected = 0 if cues.protect is None else cues.protect.shape[0]
    if protected and method.merges:
        raise ValueError(f"{type(method).__name__} merges tokens and cannot protect any: leave out protect.")
    if protected > k:
        raise ValueError(f"protect holds {protected} tokens and the budget keeps {k}: raise keep, or protect fewer.")
    if k == 0 or (k == cues.n and not method.exact):
        chosen = torch.arange(k, device=cues.features.device)
        return Keep.from_order(chosen, torch.zeros(k, device=cues.features.device), cues.n)
    with torch.no_grad(), torch.autocast(cues.features.device.type, enabled=False):
        cues.require_finite()
        cues.require_weights(method.needs)
        decision = method.select(cues, k)
    if decision.k > k or (method.exact and decision.k != k):
        raise AssertionError(f"{method!r} kept {decision.k} of {cues.n} tokens where {k} were asked for: a bug in it.")
    if cues.protect is not None and not bool(torch.isin(cues.protect, decision.rows).all()):
        raise AssertionError(f"{method!r} dropped a protected token: a bug in it.")
    return decision
