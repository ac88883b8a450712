"""Answers: what every configuration answered, question by question, in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from greedyprune.eval.configs import DENSE, DOWNSCALE, ORACLE, POOL, RANDOM, Config
from greedyprune.eval.engine import Outcome
from greedyprune.eval.items import HALF, Item
from greedyprune.eval.stats import guess_floor, majority_floor

Batches = list[list[Item]]
NUMBERS = ("tokens", "kept", "averaged", "flops", "region", "found")


@dataclass(eq=False)
class Answers:
    """The answers of every configuration to every question. The order of the questions is the same for all."""

    items: list[Item]
    configs: list[Config]
    columns: dict[str, dict[str, Tensor]]
    """By configuration key and column name: (q,) each, one value per question."""
    given: int = 0
    """Answers that the model gave in this run; the others were in the run folder."""
    told: dict[str, list[str]] = field(default_factory=dict)
    """By configuration key: the answers themselves."""

    @classmethod
    def of(
        cls, batches: Batches, configs: list[Config], outcomes: Mapping[tuple[str, int], Outcome], given: int = 0
    ) -> Answers:
        """Join the batches of every configuration."""
        columns: dict[str, dict[str, Tensor]] = {}
        told: dict[str, list[str]] = {}
        for config in configs:
            parts = [outcomes[config.key, number] for number in range(len(batches))]
            told[config.key] = [text for part in parts for text in part.told]
            asked = [item for items in batches for item in items]
            scores = [item.score(text) for item, text in zip(asked, told[config.key], strict=True)]
            columns[config.key] = {
                "score": torch.tensor(scores, dtype=torch.float64),
                **{
                    name: torch.tensor([value for part in parts for value in getattr(part, name)], dtype=torch.float64)
                    for name in NUMBERS
                },
                "seconds": torch.tensor([part.seconds / len(part.told) for part in parts for _ in part.told]),
            }
        return cls([item for items in batches for item in items], configs, columns, given, told)

    def scores(self, config: Config) -> Tensor:
        """How right the answers of `config` are, each from 0 to 1. (q,) float64"""
        return self.columns[config.key]["score"]

    def right(self, config: Config) -> Tensor:
        """True for the questions that `config` answered right. (q,) bool"""
        return self.scores(config) >= HALF

    def listed(self) -> Iterator[dict[str, Any]]:
        """Every answer as plain values, configuration by configuration."""
        for config in self.configs:
            scores, kept = self.scores(config).tolist(), self.columns[config.key]["kept"].tolist()
            for item, text, points, left in zip(self.items, self.told[config.key], scores, kept, strict=True):
                yield {
                    "method": config.name,
                    "options": config.options,
                    "stage": config.place,
                    "budget": config.budget,
                    "seed": config.seed,
                    "perturbation": config.perturbation,
                    "item": item.name,
                    "task": item.task,
                    "image": item.picture,
                    "question": item.text,
                    "answers": list(item.answers),
                    "metric": item.metric,
                    "told": text,
                    "score": points,
                    "kept": int(left),
                }

    @cached_property
    def tasks(self) -> dict[str, Tensor]:
        """The questions of every task. (q,) bool each"""
        names = dict.fromkeys(sorted(item.task for item in self.items))
        return {name: torch.tensor([item.task == name for item in self.items]) for name in names}

    @cached_property
    def dense(self) -> Config:
        """The configuration that keeps everything."""
        return next(config for config in self.configs if config.name == DENSE and not config.perturbation)

    @cached_property
    def floors(self) -> dict[str, tuple[float, float | None]]:
        """The accuracy of always giving the majority answer, and of guessing, by task."""
        found: dict[str, tuple[float, float | None]] = {}
        for task, among in self.tasks.items():
            some = [item for item, mine in zip(self.items, among.tolist(), strict=True) if mine]
            found[task] = majority_floor(some), guess_floor(some)
        return found

    def accuracy(self, config: Config, tasks: Sequence[str]) -> float:
        """The mean over tasks of the share of right answers."""
        return sum(float(self.scores(config)[self.tasks[task]].mean()) for task in tasks) / len(tasks)

    def rivals(self, config: Config) -> dict[str, list[Config]]:
        """The other methods at the same budget, by name; seeds of one method go together.

        If stages were given, at the same stage. Under a perturbation, those under the same one, and those as they are
        that it leaves alone.
        """
        found: dict[str, list[Config]] = {}
        if config.name == DENSE:
            return found
        for other in self._beside(config.perturbation):
            same = other.name == config.name and other.options == config.options
            if same or other.name in (DENSE, ORACLE) or other.budget != config.budget:
                continue
            if other.at is not None and config.at is not None and other.at != config.at:
                continue
            found.setdefault(" ".join(filter(None, (other.name, other.options, other.place))), []).append(other)
        return found

    def _beside(self, perturbation: str) -> list[Config]:
        """The configurations under a perturbation, and those that it leaves alone; all as they are if it is empty."""
        under = [one for one in self.configs if one.perturbation == perturbation]
        touched = [replace(one, perturbation="") for one in under]
        return under + [one for one in self.configs if not one.perturbation and one not in touched]

    def plain(self, config: Config) -> list[Config]:
        """The same configuration without its perturbation. Empty if it has none."""
        return [one for one in self.configs if config.perturbation and one == replace(config, perturbation="")]

    def draws_of(self, config: Config) -> list[Config]:
        """Random choice at the same budget, at the same stage if it ran there. Empty for random choice itself."""
        if config.name in (DENSE, RANDOM):
            return []
        draws = [one for one in self.configs if one.name == RANDOM and one.budget == config.budget]
        return [one for one in draws if one.place == config.place] or draws

    def control(self, config: Config) -> Config | None:
        """The control at the same budget: down-scaling, or average pooling if images cannot be scaled down."""
        for name in (DOWNSCALE, POOL):
            found = [other for other in self.configs if other.name == name and other.budget == config.budget]
            if found:
                return found[0]
        return None
