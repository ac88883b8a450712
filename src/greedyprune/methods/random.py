"""Random: k tokens drawn without looking. The control that any method has to beat."""

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
    """k distinct tokens, uniformly at random. A control: report it over three seeds or more.

    Equal n and seed give the same draw for every image, and the draw for k is a prefix of that for k + 1. Differs:
    nothing to differ from. Gains are 0. Cost: O(n).
    """

    equivariant: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False

    at: Stage = Layer(2)
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"seed={self.seed!r}: write an int.")

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        # Drawn on the CPU, so that a seed means the same on every device.
        draw = torch.randperm(cues.n, generator=torch.Generator("cpu").manual_seed(self.seed), device="cpu")
        order = protected_first(draw.to(cues.features.device), cues.protect)[:k]
        return Keep.from_order(order, torch.zeros(k, device=order.device), cues.n)
