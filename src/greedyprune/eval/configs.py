"""Configurations: the ways of answering that are compared. The dense model is the first.

Besides the registered methods there are two controls: `oracle`, which knows the tokens that carry the answer, and
`downscale`, which shows the dense model a smaller image of as many tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch

from greedyprune.budget import Budget, LayerAverage
from greedyprune.cues import Cues, Grid, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.naming import as_method
from greedyprune.ops.grid import uniform_cells
from greedyprune.plain import to_plain
from greedyprune.registry import DEFAULT, METHODS
from greedyprune.stages import Layer, Stage

DENSE, ORACLE, DOWNSCALE = "dense", "oracle", "downscale"
RANDOM, POOL, GRID = "random", "pool", "grid"
"""Registered methods that are controls: `RANDOM` is the baseline of every method, `POOL` stands in for `DOWNSCALE`."""
BLIND = "blind"
"""The perturbation in which the model itself sees a grey picture."""


@dataclass(frozen=True, kw_only=True)
class Oracle(Method):
    """The tokens that carry the answer, given as `protect`, then others spread evenly over the grid. An upper control.

    Without protected tokens it is the uniform grid. Differs: nothing to differ from. Gains are 0. Cost: O(n).
    """

    needs: ClassVar[tuple[Need, ...]] = (Grid(),)
    equivariant: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False

    at: Stage = Layer(2)

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        assert cues.grid is not None
        order = uniform_cells(cues.grid, k)
        if cues.protect is not None:
            given = cues.protect.cpu()
            order = torch.cat([given, evenly(order[~torch.isin(order, given)], k - given.numel())])
        order = order.to(cues.features.device)
        return Keep.from_order(order, torch.zeros(k, device=order.device), cues.n)


def evenly(rows: torch.Tensor, count: int) -> torch.Tensor:
    """At most `count` of these rows, at even steps. (r,) -> (min(r, count),)"""
    r = rows.shape[0]
    count = min(r, count)
    return rows[(2 * torch.arange(count) + 1) * r // (2 * max(count, 1))]


@dataclass(frozen=True)
class Config:
    """One way of answering."""

    name: str
    """A registered method, or `dense`, `oracle`, `downscale`."""
    method: Method | None = None
    """None for the dense model and for down-scaling."""
    keep: Budget | LayerAverage | None = None
    budget: str = "all"
    """The text of the budget on the command line, such as "1/9"."""
    at: Stage | None = None
    """None for the method's own stage."""
    seed: int | None = None
    perturbation: str = ""
    """A name in `perturbed.PERTURBATIONS`, or `BLIND`; empty if everything is as it is."""

    @property
    def stage(self) -> Stage | None:
        """The stage at which tokens are cut; None if none are."""
        return self.at or (self.method.at if self.method else None)

    @property
    def place(self) -> str:
        """The stage as text: "image" for down-scaling, empty for the dense model."""
        return str(self.stage or ("image" if self.name == DOWNSCALE else ""))

    @property
    def options(self) -> str:
        """The method's options that are not its defaults, as JSON; the stage and the seed have columns of their own."""
        if self.method is None:
            return ""
        usual = type(self.method)()
        changed = {
            field.name: to_plain(getattr(self.method, field.name))
            for field in fields(self.method)
            if field.name not in ("at", "seed") and getattr(self.method, field.name) != getattr(usual, field.name)
        }
        return json.dumps(changed, sort_keys=True) if changed else ""

    @property
    def key(self) -> str:
        """The name in a run folder. Configurations with equal keys give equal answers."""
        parts = self.name, self.options, self.keep, self.place, self.seed, self.perturbation
        return " ".join(str(part) for part in parts if part != "")

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.options, self.budget, self.place, self.perturbation) if part)


def configurations(
    methods: Iterable[Method | str | Mapping[str, object]],
    budgets: Mapping[str, Budget | LayerAverage],
    stages: Sequence[Stage | None] = (None,),
    seeds: Sequence[int] = (0,),
) -> list[Config]:
    """List the dense model, then every method at every budget and stage; random methods once for every seed.

    `budgets` maps the text that the results show to a budget. Down-scaling has no stage and average pooling has its
    own, so they are listed once. Raises ValueError if another method cannot run at one of the stages.

        configurations(["greedyprune", "random"], {"1/9": Ratio(1 / 9)}, [Layer(2)], seeds=(0, 1, 2))
    """
    found = [Config(DENSE)]
    named = [_with_name(method) for method in methods]
    for budget, keep in budgets.items():
        for name, method in named:
            for at in dict.fromkeys(_stages_of(method, stages)):
                found += [Config(name, drawn, keep, budget, at, seed) for drawn, seed in _with_seeds(method, seeds)]
    return found


def _with_name(method: Method | str | Mapping[str, object]) -> tuple[str, Method | None]:
    if method == DOWNSCALE:
        return DOWNSCALE, None
    if method == ORACLE:
        return ORACLE, Oracle()
    made = as_method(method)  # pyright: ignore[reportArgumentType]
    return str(to_plain(made)["type"]), made


def _stages_of(method: Method | None, stages: Sequence[Stage | None]) -> list[Stage | None]:
    """The stages of one method. Raises ValueError if it cannot run at one of them."""
    if method is None or method.merges:
        return [None]
    for at in stages:
        method.check_stage(at or method.at)
    return list(stages)


def _with_seeds(method: Method | None, seeds: Sequence[int]) -> list[tuple[Method | None, int | None]]:
    """The method with every seed if it has one; else the method alone."""
    if method is None or not any(field.name == "seed" for field in fields(method)):
        return [(method, None)]
    return [(replace(method, seed=seed), seed) for seed in seeds]  # pyright: ignore[reportCallIssue]


USUAL = (DEFAULT, "greedyprune", "divprune", "cls", "fastv", "saliency", RANDOM, GRID, POOL)
"""The methods that are compared by default: one of each kind, and controls. All methods would take hours on a CPU."""
PERTURBED = (DEFAULT, "greedyprune", "mmr", "saliency", "fastv", "divprune")
"""The methods that are compared by default where cues are perturbed: one of each kind that reads some."""
BESIDE = (RANDOM, GRID)
"""The methods that always stand beside perturbed ones: they read no cue that a perturbation changes."""


def usual_methods(native: bool, every: bool = False) -> list[str]:
    """The names of the methods compared by default, or of `every` registered one, and of the controls that apply."""
    return [*(METHODS if every else USUAL), *([DOWNSCALE] if native else []), ORACLE]
