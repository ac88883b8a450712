"""Tuning: the smallest budget whose accuracy on given questions stays within a chosen loss.

Budgets are tried from the largest to the smallest. One holds if the 95 % interval of its difference to the dense model
lies above minus the loss. The first one that does not hold ends the search. So each is tested only if all larger ones
held, and the chance that the budget found loses more than the loss stays at 2.5 %, however many are tried (testing in a
fixed sequence; Maurer, Hothorn and Lehmacher 1995).

    tried = list(tuned(engine, items, "divprune", {"1/2": Ratio(0.5), "1/4": Ratio(0.25)}, Path("run"), loss=0.02))
    smallest = [each for each in tried if each.holds][-1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from greedyprune.budget import Budget, LayerAverage, count
from greedyprune.eval.configs import Config, configurations
from greedyprune.eval.engine import Engine
from greedyprune.eval.items import Item
from greedyprune.eval.loop import Job, evaluate
from greedyprune.eval.stats import pictures_for, unseen_loss
from greedyprune.eval.table import MEAN, rows
from greedyprune.method import Method
from greedyprune.stages import Stage


@dataclass(frozen=True)
class Tried:
    """One budget, and what it costs in accuracy."""

    budget: str
    keep: Budget | LayerAverage
    kept: float
    """Visual tokens kept of a picture, on average."""
    dense: float
    """The accuracy with all tokens."""
    accuracy: float
    difference: float
    low: float
    """The lower end of the 95 % interval of the difference; no nearer to 0 than so many pictures can show."""
    high: float
    holds: bool
    """True if no more than the loss is lost."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "keep": str(self.keep)}


def check_pictures(items: Sequence[Item], loss: float) -> None:
    """Raise ValueError if so few pictures could not show that no more than this share is lost."""
    pictures = len({item.picture for item in items})
    least = unseen_loss(pictures)
    if loss < least:
        raise ValueError(
            f"{pictures} pictures cannot show a loss below {100 * least:.1f} points, even if no answer changes: ask "
            f"about {pictures_for(loss)} pictures or more, or allow a larger loss."
        )


def tuned(
    engine: Engine,
    items: Sequence[Item],
    method: Method | str,
    budgets: Mapping[str, Budget | LayerAverage],
    folder: Path,
    *,
    loss: float,
    at: Stage | None = None,
    batch: int = 32,
    about: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Tried]:
    """Try budgets from the largest to the smallest, and stop behind the first that does not hold.

    `loss`: the share of right answers that may be lost, 0.02 for two points. `folder` keeps the answers. Raises
    ValueError if the method cannot run, or if there are too few pictures for this loss.
    """
    check_pictures(items, loss)
    least = unseen_loss(len({item.picture for item in items}))
    n = engine.prepare(0, [items[0]]).spans[0].n
    sizes = {text: count(keep.tokens if isinstance(keep, LayerAverage) else keep, n) for text, keep in budgets.items()}
    done: list[Config] = []
    for text in sorted(sizes, key=lambda name: -sizes[name]):
        say(text)
        done = [*(done or [Config("dense")]), configurations([method], {text: budgets[text]}, [at])[1]]
        answers = evaluate(engine, Job(list(items), done, batch, about=about), folder)
        found = rows(answers)
        task = MEAN if any(row["task"] == MEAN for row in found) else found[0]["task"]
        mine = [cast("dict[str, Any]", row) for row in found if row["task"] == task]
        row, low = mine[-1], min(mine[-1]["dense_low"], -least)
        holds = low >= -loss
        yield Tried(
            text,
            budgets[text],
            row["kept"],
            mine[0]["accuracy"],
            row["accuracy"],
            row["dense_difference"],
            low,
            max(row["dense_high"], least),
            holds,
        )
        if not holds:
            return
