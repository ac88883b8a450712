"""Made-up answers of an evaluation, for tests of its statistics and its charts."""

from __future__ import annotations

import torch
from PIL import Image

from greedyprune.budget import Ratio
from greedyprune.eval import Answers, Config, Item, configurations

RIGHT = {
    "dense": [1, 1, 1, 0],
    "greedyprune": [1, 1, 0, 0],
    "random0": [0, 0, 0, 0],
    "random1": [1, 0, 0, 0],
    "pool": [1, 0, 0, 0],
    "oracle": [1, 1, 1, 1],
}


def item(number: int, task: str = "t", answer: str = "yes", guesses: tuple[str, ...] = ()) -> Item:
    return Item(f"{task}{number}", task, Image.new("RGB", (4, 4)), f"p{number // 2}", "?", (answer,), (), guesses)


def answers(right: dict[str, list[int]], tasks: str = "aabb") -> tuple[Answers, dict[str, Config]]:
    """Made-up answers: which questions each configuration answers right."""
    items = [item(number, task, guesses=("yes", "no")) for number, task in enumerate(tasks)]
    configs = configurations(["greedyprune", "random", "pool", "oracle"], {"1/4": Ratio(0.25)}, seeds=(0, 1))
    columns = {}
    named = dict(zip(("dense", "greedyprune", "random0", "random1", "pool", "oracle"), configs, strict=True))
    for name, config in named.items():
        other = {key: torch.full((len(items),), 4.0) for key in ("tokens", "kept", "averaged", "flops", "seconds")}
        found = torch.tensor([1.0, 2.0, 0.0, 0.0]) if config.name != "pool" else torch.full((4,), -1.0)
        region = torch.tensor([2.0, 2.0, 0.0, 0.0])
        columns[config.key] = {"score": torch.tensor(right[name]).double(), "region": region, "found": found, **other}
    return Answers(items, configs, columns), named
