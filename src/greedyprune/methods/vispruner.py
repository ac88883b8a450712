"""VisPruner: half the tokens because the class token looks at them, half because they repeat each other least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.checks import is_count
from greedyprune.cues import Attention, Cues, Encoded, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.matching import thin
from greedyprune.stages import Input, Stage

LOOK, ROWS = Attention("tower"), Encoded()


@dataclass(frozen=True, kw_only=True)
class VisPruner(Method):
    """floor(r k) important tokens: the top by the class token's attention. The rest of k: others, without duplicates.

    The others are ranked by attention. Until enough are gone: the ones at even ranks are compared, by the cosine of
    what the vision tower made of them, with those at odd ranks, and the 8 whose largest cosine is highest are dropped.
    Gains are attention weights. Qizhe Zhang et al., ICCV 2025.

    Differs: in towers without a class token the attention of all tokens on average stands in; r is 0.5 for every k,
    where some published runs take 0.75 for 64 tokens; ties go to the lowest index, and of equally redundant tokens the
    less attended one is dropped; tokens leave behind the projector and keep their original positions; protected tokens
    count as important. Cost: one query at one layer of the tower, and O(n^2 d).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, ROWS)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()
    ratio: float = 0.5
    """Which share of the kept tokens are important ones."""
    drop: int = 8
    """How many duplicates one round drops."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio!r} is no share: write a number from 0 to 1.")
        if not is_count(self.drop, 1):
            raise ValueError(f"drop={self.drop!r}: a round must drop at least 1 token, 8 are published.")

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        ranking = protected_first(cues[LOOK].sort(descending=True, stable=True).indices, cues.protect)
        protected = 0 if cues.protect is None else cues.protect.shape[0]
        important = max(int(k * self.ratio), protected)
        others = thin(cues[ROWS], ranking[important:], k - important, self.drop)
        order = torch.cat([ranking[:important], others])
        return Keep.from_order(order, cues[LOOK][order], cues.n)
