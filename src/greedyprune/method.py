"""Method: the base of every pruning method; and `select`, which runs one on plain tensors, every check made once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch

from greedyprune.budget import as_budget, count
from greedyprune.cues import Cues, Need
from greedyprune.keep import Keep
from greedyprune.plain import from_plain
from greedyprune.registry import METHODS, method_class
from greedyprune.stages import Depths, Input, Layer, Layers, Stage


@dataclass(frozen=True, kw_only=True)
class Method:
    """A pruning method: a frozen dataclass whose fields are its knobs and whose `select` picks the rows that stay.

    It sees one image and no model. `select` is called with checked, finite cues and 0 < k <= n; it returns exactly k
    rows, or, where `exact` is False, at most k, on the device of the cues: see `Keep.from_order`. What it reads beyond
    the features it lists in `needs`, such as `(Text(), Attention("cls"))`.
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
        if not isinstance(stage, Stage):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"{type(self).__name__} cannot run at {stage!r}, which is no stage: write Input(), Layer(2), "
                "Layers((8, 16)) or Depths((0.25, 0.5))."
            )
        if not isinstance(stage, self.stages):
            places = ", ".join(place.__name__ for place in self.stages)
            raise ValueError(f"{type(self).__name__} cannot run at {stage!r}: it runs at {places}.")


def as_method(method: Method | type[Method] | str | Mapping[str, Any]) -> Method:
    """A method as a user gives it: an instance, a class (with its defaults), a registered name, or a plain dict."""
    if isinstance(method, str):
        return method_class(method)()
    found = from_plain(method) if isinstance(method, Mapping) else method
    if isinstance(found, type) and issubclass(found, Method):
        _check_class(found)
        found = found()
    if isinstance(found, Method):
        _check_class(type(found))
        _check_needs(found)
        return found
    raise TypeError(f"{method!r} is no method: pass an instance such as GreedyPrune(), or one of {sorted(METHODS)}.")


def _check_class(cls: type[Method]) -> None:
    """Raise unless a method's class can select and names stages: a mistake is told before anything runs."""
    if cls.select is Method.select:
        raise TypeError(
            f"{cls.__name__} has no select(): write def select(self, cues, k), which returns "
            "Keep.from_order(order, gains, cues.n)."
        )
    stages = cast("tuple[object, ...]", cls.stages) if isinstance(cls.stages, tuple) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
    if not stages or not all(isinstance(each, type) and issubclass(each, Stage) for each in stages):
        raise TypeError(f"{cls.__name__}.stages is {cls.stages!r}: list classes of stages, such as (Input, Layer).")


def _check_needs(method: Method) -> None:
    """Raise unless what a method needs is told as needs."""
    name, needs = type(method).__name__, cast("object", method.needs)
    if not isinstance(needs, (tuple, list)):
        raise TypeError(f"{name}.needs is {needs!r}: write a tuple of needs, such as (Text(), Attention('cls')).")
    for need in cast("tuple[object, ...]", needs):
        if not isinstance(need, Need):
            raise TypeError(f"{name}.needs holds {need!r}: write a need, such as Text(), Grid() or Attention('cls').")


def select(method: Method | type[Method] | str | Mapping[str, Any], cues: Cues, keep: object) -> Keep:
    """Choose which visual tokens of one image stay, on plain tensors, with no model anywhere.

    `method` is an instance, a class or a registered name; `keep` an int (that many tokens) or `Ratio(share)`. A budget
    of n or more keeps everything, 0 keeps nothing. Raises ValueError for cues that the method needs and are missing, or
    that hold NaN or infinity, or attention below 0; and TypeError or ValueError, which name the method's class, where a
    method of your own returns no `Keep` that can be carried out. Runs without gradients and outside autocast, so
    decisions are made in full precision.

        keep = select("greedyprune", Cues(features, text=text), 64)
        features, positions = keep(features), keep(positions)
    """
    method = as_method(method)
    if not isinstance(cues, Cues):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"cues is a {type(cues).__name__}: wrap the rows, Cues(features).")
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
        return _checked(method, method.select(cues, k), cues, k)


def _checked(method: Method, found: object, cues: Cues, k: int) -> Keep:
    """What a method returned, where it can be carried out; else an error that names its class and says what to do."""
    name = f"{type(method).__name__}.select()"
    if not isinstance(found, Keep):
        raise TypeError(
            f"{name} returned {'None' if found is None else f'a {type(found).__name__}'}: "
            "return Keep.from_order(order, gains, cues.n), order the (k,) rows that stay, in the order of taking them."
        )
    try:
        found.check(cues.n, cues.features.device)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} returned a Keep that cannot be carried out: {error}") from None
    if found.k > k or (method.exact and found.k != k):
        rule = "at most" if not method.exact else "exactly"
        hint = "" if not method.exact or found.k > k else ", or let exact be False where it may return fewer"
        raise ValueError(
            f"{name} kept {found.k} of {cues.n} tokens where {k} were asked for: return {rule} k rows{hint}."
        )
    if cues.protect is not None and not bool(torch.isin(cues.protect, found.rows).all()):
        raise ValueError(f"{name} dropped a protected token: take the rows in cues.protect first.")
    return found
