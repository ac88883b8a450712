"""Policy: what a user wishes to be done to every prompt, as one value that knows no model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from greedyprune.budget import Budgets, PerFrame, PerLayer, as_budgets
from greedyprune.method import Method
from greedyprune.naming import as_method
from greedyprune.stages import Depths, Layer, Layers, Stage, as_stage

Positions = Literal["original", "compact"]
"""Which position ids the kept tokens have: their own, or new ones without gaps."""


@dataclass(frozen=True)
class Policy:
    """A method, a budget, the place of the cut and the positions of the kept tokens.

    Each field takes what `prune` takes: `Policy("greedyprune", 64, "layer:2")`. The value holds what was meant: a
    `Method`, a budget and a `Stage`; `at=None` is the method's own stage, or the layers that a `PerLayer` names.
    Raises TypeError or ValueError if the method, the budget and the stage do not fit each other.
    """

    method: Method
    keep: Budgets
    at: Stage = None  # pyright: ignore[reportAssignmentType] - read as the method's own
    positions: Positions = "original"

    def __post_init__(self) -> None:
        method, keep = as_method(self.method), as_budgets(self.keep)
        given = cast("object", self.at)
        at = method.at if given is None else as_stage(given)
        if self.positions not in get_args(Positions):
            raise ValueError(
                f"positions={self.positions!r} is unknown: choose one of {', '.join(get_args(Positions))}."
            )
        if isinstance(keep, PerLayer):
            at = Layers(tuple(keep.schedule))
            if given is not None and as_stage(given) != at:
                raise ValueError(f"keep={keep!r} says itself where to cut: leave out at={given!r}.")
        for name, value in (("method", method), ("keep", keep), ("at", at)):
            object.__setattr__(self, name, value)
        for stage in _stages(at):
            method.check_stage(stage)
        self._check_frames()

    def _check_frames(self) -> None:
        """Raise if a budget for every frame does not fit the place or the method."""
        given = self.keep if isinstance(self.keep, tuple) else (self.keep,)
        mine = next((budget for budget in given if isinstance(budget, PerFrame)), None)
        if mine is None:
            return
        if isinstance(self.at, (Layers, Depths)) and len(_stages(self.at)) > 1:
            raise ValueError(
                f"keep={mine!r} is what one cut leaves of a frame, and {self.place!r} cuts several times: "
                "use at=Input() or one Layer(l), or give the budget of a whole clip, an int or Ratio(0.25)."
            )
        if self.method.compares_frames:
            raise ValueError(
                f"{type(self.method).__name__} compares the frames of a clip, so it cannot choose with {mine!r} from "
                "one frame at a time: give the budget of the whole clip, an int or Ratio(0.25)."
            )

    def on(self, depth: int) -> Policy:
        """The same policy for a decoder of `depth` layers: `Depths` become `Layers`."""
        return replace(self, at=self.at.of(depth)) if isinstance(self.at, Depths) else self

    @property
    def place(self) -> str:
        """Where this policy cuts, as text."""
        return str(self.at)

    @property
    def starts(self) -> list[int]:
        """The decoder layers before which tokens leave; empty if they leave before the decoder."""
        if isinstance(self.at, Depths):
            raise TypeError(f"at={self.at!r} is known once the decoder's depth is: call policy.on(depth) first.")
        if isinstance(self.at, Layers):
            return list(self.at.indices)
        return [self.at.index] if isinstance(self.at, Layer) else []

    @property
    def early(self) -> bool:
        """Whether the caches of layers before the cut are cut too."""
        return isinstance(self.at, Layer) and self.at.early


def _stages(at: Stage) -> list[Stage]:
    """Each cut of a place by itself; shares of a depth nobody knows yet count as layers."""
    if isinstance(at, Layers):
        return [Layer(index) for index in at.indices]
    return [Layer(1) for _ in at.shares] if isinstance(at, Depths) else [at]
