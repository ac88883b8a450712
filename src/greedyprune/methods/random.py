"""Random: k random tokens. Any method must beat this control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Cues
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.stages import Layer, Stage


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """k distinct tokens, uniformly at random. A control: report its mean over three seeds or more.

        gp.prune(model, gp.Random(seed=1), keep=64)

    Equal n and seed give the same draw for every image. The draw for k is a prefix of that for k + 1. Differs: it has
    no source. Gains are 0. Cost: O(n).
    """

    equivariant: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False

    at: Stage = Layer(2)
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"seed={self.seed!r}: write an int.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        # The draw is made on the CPU, so a seed gives the same tokens on every device.
        draw = torch.randperm(cues.n, generator=torch.Generator("cpu").manual_seed(self.seed), device="cpu")
        order = protected_first(draw.to(cues.features.device), cues.protect)[:k]
        return Keep.from_order(order, torch.zeros(k, device=order.device), cues.n)
