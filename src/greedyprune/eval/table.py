"""The table: from outcomes to rows, one per configuration and task, and one for the mean over the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from greedyprune.eval.answers import Answers
from greedyprune.eval.configs import Config
from greedyprune.eval.stats import RESAMPLES, Bootstrap, centred, hard, interval

MEAN = "mean"
"""The task of a row that averages all tasks, each with the same weight."""
PLAIN = "none"
"""The perturbation of a row without one."""
Row = dict[str, object]


@dataclass(eq=False)
class _Table:
    """The answers, and the resampled accuracies from which rows are made."""

    answers: Answers
    draws: dict[str, Tensor]
    """By task: the accuracy of every configuration in every resample. (resamples, configs)"""

    def difference(self, name: str, config: Config, others: Sequence[Config], tasks: Sequence[str]) -> Row:
        """The difference in accuracy to the mean of others, with its interval. None if there are no others."""
        if not others or config in others:
            return {f"{name}_difference": None, f"{name}_low": None, f"{name}_high": None}
        place = {one.key: column for column, one in enumerate(self.answers.configs)}
        mine, theirs = place[config.key], [place[one.key] for one in others]
        gaps = torch.stack([self.draws[task][:, mine] - self.draws[task][:, theirs].mean(1) for task in tasks])
        low, high = interval(gaps.nanmean(0))
        other = sum(self.answers.accuracy(one, tasks) for one in others) / len(others)
        mean = self.answers.accuracy(config, tasks) - other
        return {f"{name}_difference": _rounded(mean), f"{name}_low": _rounded(low), f"{name}_high": _rounded(high)}


def rows(answers: Answers, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Row]:
    """One row per configuration and task, and one for their mean, in the order of the configurations.

    If there are perturbations, each row names its own, and holds the difference to the same configuration without it.
    Other differences are to the dense model, to the best other method on the task's own questions at the same budget
    (which flatters that other), and to random choice averaged over its seeds; 95 % intervals resample images.
    """
    bootstrap = Bootstrap([item.picture for item in answers.items], resamples, seed)
    scores = torch.stack([answers.scores(config) for config in answers.configs], 1)
    table = _Table(answers, {task: bootstrap.means(scores, among) for task, among in answers.tasks.items()})
    groups = {task: [task] for task in answers.tasks}
    if len(groups) > 1:
        groups[MEAN] = list(answers.tasks)
    return [_row(table, config, task, tasks) for config in answers.configs for task, tasks in groups.items()]


def _row(table: _Table, config: Config, task: str, tasks: list[str]) -> Row:
    answers, seen = table.answers, table.answers.columns[config.key]
    right, every = answers.right(config), torch.stack([answers.tasks[name] for name in tasks]).any(0)
    accuracy, dense = answers.accuracy(config, tasks), answers.accuracy(answers.dense, tasks)
    rivals = answers.rivals(config)
    best = max(rivals, key=lambda name: _mean([answers.accuracy(one, tasks) for one in rivals[name]]), default=None)
    return {
        "method": config.name,
        "options": config.options,
        "stage": config.place,
        "budget": config.budget,
        "seed": config.seed,
        **_perturbation(answers, config),
        "task": task,
        "n": int(every.sum()),
        "correct": int(right[every].sum()),
        "accuracy": _rounded(accuracy),
        "relative": _rounded(accuracy / dense if dense else None),
        **_against_chance(answers, config, tasks),
        **table.difference("dense", config, [answers.dense], tasks),
        "best_other": best,
        **table.difference("best", config, rivals[best] if best else [], tasks),
        **table.difference("random", config, answers.draws_of(config), tasks),
        **(table.difference("plain", config, answers.plain(config), tasks) if _perturbation(answers, config) else {}),
        **_hard(answers, config, every),
        **_recall(seen, every),
        **{name: _rounded(float(seen[name][every].mean())) for name in ("tokens", "kept", "averaged")},
        "prefill_mflops": _rounded(float(seen["flops"][every].mean()) / 1e6),
        "seconds": _rounded(float(seen["seconds"][every].sum())),
    }


def _perturbation(answers: Answers, config: Config) -> Row:
    """The name of the perturbation, if any configuration has one."""
    known = any(one.perturbation for one in answers.configs)
    return {"perturbation": config.perturbation or PLAIN} if known else {}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _against_chance(answers: Answers, config: Config, tasks: list[str]) -> Row:
    """Floors, and the accuracy centred on the higher of them; for several tasks, means of these."""
    floors = [answers.floors[task] for task in tasks]
    levels = [
        centred(answers.accuracy(config, [task]), max(majority, guess or 0.0))
        for task, (majority, guess) in zip(tasks, floors, strict=True)
    ]
    known = [level for level in levels if level is not None]
    guesses = [guess for _, guess in floors if guess is not None]
    return {
        "centred": _rounded(_mean(known) if known else None),
        "majority_floor": _rounded(_mean([majority for majority, _ in floors])),
        "guess_floor": _rounded(_mean(guesses) if guesses else None),
    }


def _hard(answers: Answers, config: Config, every: Tensor) -> Row:
    """The hard subset: questions that dense answers right and the control at this budget does not."""
    control = answers.control(config)
    if control is None:
        return {"hard_n": None, "hard_correct": None, "hard_accuracy": None}
    subset = hard(answers.right(answers.dense), answers.right(control)) & every
    n, correct = int(subset.sum()), int(answers.right(config)[subset].sum())
    return {"hard_n": n, "hard_correct": correct, "hard_accuracy": _rounded(correct / n if n else None)}


def _recall(seen: Mapping[str, Tensor], every: Tensor) -> Row:
    """The share of answer-carrying tokens that stayed, over the questions that have some."""
    known = every & (seen["region"] > 0) & (seen["found"] >= 0)
    recall = float((seen["found"][known] / seen["region"][known]).mean()) if bool(known.any()) else None
    return {"regions": int((every & (seen["region"] > 0)).sum()), "region_recall": _rounded(recall)}
