"""Cases: the prompts that proofs run on, and the budgets of their images. Verdicts: the results."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from greedyprune.budget import Budget, Ratio

Rows: TypeAlias = tuple[tuple[int, ...], ...]
"""The prompts of a batch, each as the numbers of its pictures. A number means the same picture everywhere."""


@dataclass(frozen=True)
class Case:
    """A batch of prompts, and a budget for each of its images."""

    name: str
    rows: Rows
    keep: tuple[Budget, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def owners(self) -> list[int]:
        """The prompt that each image belongs to, by number."""
        return [row for row, images in enumerate(self.rows) for _ in images]

    def asked(self) -> list[Budget]:
        """The budgets as `prune` takes them; a prompt without images needs some, too."""
        return list(self.keep) or [Ratio(0.5)]

    def row(self, index: int) -> Case:
        """The case of one of its prompts alone."""
        mine = tuple(budget for budget, row in zip(self.keep, self.owners, strict=True) if row == index)
        return Case(f"{self.name}, prompt {index}", (self.rows[index],), mine)


def cases(images: int = 2) -> dict[str, Case]:
    """One image, several of them in a prompt, a batch of unequal prompts (padded on the left), and text alone."""
    if images < 2:
        raise ValueError(f"images={images}: a prompt with several images needs 2 or more.")
    shares = tuple(Ratio((0.3, 0.5, 0.4)[number % 3]) for number in range(images))
    made = (
        Case("one image", ((0,),), (Ratio(0.4),)),
        Case(f"{images} images", (tuple(range(images)),), shares),
        Case("batch", ((0,), (1, 2)), (Ratio(0.4), Ratio(0.3), Ratio(0.5))),
        Case("text", ((),)),
    )
    return {case.name: case for case in made}


Outcome: TypeAlias = Literal["passed", "failed", "does not apply", "not told"]
"""The possible results of a proof."""


@dataclass(frozen=True)
class Verdict:
    """The result of a property on a model, at a stage, with one kind of attention."""

    name: str
    passed: bool | None
    """True if the property holds. None if it does not apply or cannot be decided: `detail` says why."""
    error: float = 0.0
    """The largest error found: a difference between logits, unless the property names another unit."""
    bound: float = 0.0
    """The largest error that is allowed."""
    detail: str = ""
    at: str = ""
    attention: str = ""
    applies: bool = True
    """False if the property says nothing about this model, stage or kind of attention."""

    @property
    def outcome(self) -> Outcome:
        """The verdict in a word. Only "passed" and "does not apply" are good news."""
        if self.passed is None:
            return "not told" if self.applies else "does not apply"
        return "passed" if self.passed else "failed"

    def __str__(self) -> str:
        said = {"passed": "holds", "failed": "does not hold", "not told": "could not be told"}
        where = ", ".join(filter(None, (self.at, self.attention)))
        told = f"{self.name} ({where}): {said.get(self.outcome, self.outcome)}"
        return told + (f": {self.detail}" if self.detail else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values with the outcome. The error is None if it is infinite or no number."""
        error = self.error if math.isfinite(self.error) else None
        return {**asdict(self), "outcome": self.outcome, "error": error}


def held(error: float, bound: float, what: str) -> Verdict:
    """The verdict on an error: it holds if the error is at most `bound`. NaN fails."""
    passed = error <= bound
    return Verdict("", passed, error, bound, "" if passed else f"{what} by {error:.2g}, where {bound:.2g} is allowed")


def failed(detail: str) -> Verdict:
    """The verdict of a failure that has no number."""
    return Verdict("", False, math.inf, 0.0, detail)


def untold(why: str, error: float = 0.0, bound: float = 0.0) -> Verdict:
    """The verdict if a property applies and cannot be decided."""
    return Verdict("", None, error, bound, why)


def not_applicable(why: str) -> Verdict:
    """The verdict if a property does not apply."""
    return Verdict("", None, detail=why, applies=False)


class Untold(Exception):
    """Raised if a proof cannot decide for a reason other than pruning. The message says which."""


WORST_FIRST: tuple[Outcome, ...] = ("failed", "not told", "passed", "does not apply")


def worst(verdicts: list[tuple[Case, Verdict]]) -> Verdict:
    """One verdict for all cases: a failure if there is one, else a case that could not be told, else the largest error.

    A property does not apply if it applies to none of the cases.
    """

    def badness(pair: tuple[Case, Verdict]) -> tuple[int, float]:
        verdict = pair[1]
        return -WORST_FIRST.index(verdict.outcome), verdict.error / verdict.bound if verdict.bound else verdict.error

    case, verdict = max(verdicts, key=badness)
    if verdict.passed:  # what could be told of a part of it only is said for every case
        return replace(verdict, detail="; ".join(f"{case}: {other.detail}" for case, other in verdicts if other.detail))
    return replace(verdict, detail=f"{case}: {verdict.detail}") if verdict.detail else verdict
