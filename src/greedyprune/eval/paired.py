"""The difference in accuracy between two configurations that answered the same questions, with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from greedyprune.eval.stats import RESAMPLES, Bootstrap, interval

if TYPE_CHECKING:
    from greedyprune.eval.answers import Answers
    from greedyprune.eval.configs import Config


@dataclass(frozen=True)
class Paired:
    """Two accuracies, means over the tasks, and their difference."""

    questions: int
    changed: int
    """Questions that one of the two answers right and the other does not."""
    first: float
    second: float
    difference: float
    """second - first."""
    low: float
    """The 95 % interval of the difference, by bootstrap over images."""
    high: float

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def paired(answers: Answers, first: Config, second: Config, *, resamples: int = RESAMPLES, seed: int = 0) -> Paired:
    """Compare two configurations of one run.

    found = paired(answers, exact, sampled)
    found.difference, found.low, found.high
    """
    right = torch.stack([answers.right(first), answers.right(second)], 1)
    bootstrap = Bootstrap([item.picture for item in answers.items], resamples, seed)
    gaps = [(means := bootstrap.means(right, among))[:, 1] - means[:, 0] for among in answers.tasks.values()]
    low, high = interval(torch.stack(gaps).nanmean(0))
    tasks = list(answers.tasks)
    a, b = (answers.accuracy(config, tasks) for config in (first, second))
    changed = int((right[:, 0] != right[:, 1]).sum())
    return Paired(len(answers.items), changed, *(round(value, 6) for value in (a, b, b - a, low, high)))
