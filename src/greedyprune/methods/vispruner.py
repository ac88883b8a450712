"""VisPruner: half the tokens by attention from the class token, half by low similarity to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from greedyprune.checks import is_count
from greedyprune.cues import Attention, Cues, Encoded, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.matching import thin
from greedyprune.shown import shown
from greedyprune.stages import Input, Stage

LOOK, ROWS = Attention("tower"), Encoded()
Ranking = Literal["released", "attention"]


@dataclass(frozen=True, kw_only=True)
class VisPruner(Method):
    """floor(r k) important tokens: the top by the class token's attention. The rest of k: others, without duplicates.

        gp.prune(model, gp.VisPruner(), keep=64)

    The others are ranked by attention. Each round compares those at even ranks with those at odd ranks, by the cosine
    of the vision tower's rows. It drops the 8 even ones whose largest cosine is highest. Rounds repeat until enough
    are dropped. Gains are attention weights. Qizhe Zhang et al., ICCV 2025.

    Differs: the released code ranks once: after a round the even ones that stay come first, the most redundant one in
    front, then the odd ones. So does this; `ranking="attention"` ranks the others again after every round. If the tower
    has no class token, the mean attention of all its tokens is used. r is 0.5 for every k; some published runs take
    0.75 for 64 tokens. An odd number of others stops the released code, not this. Ties go to the lowest index; of
    equally redundant tokens the less attended one is dropped. Tokens are dropped after the projector and keep their
    original positions. Protected tokens count as important. Cost: one query at one layer of the tower, and O(n^2 d).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, ROWS)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()
    ratio: float = 0.5
    """The share of the kept tokens that is important."""
    drop: int = 8
    """The number of duplicates that one round drops."""
    ranking: Ranking = "released"
    """The ranks in a later round: "released" as the round before left them, "attention" by attention again."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio!r} is no share: write a number from 0 to 1.")
        if not is_count(self.drop, 1):
            raise ValueError(f"drop={self.drop!r}: a round must drop at least 1 token, 8 are published.")
        if self.ranking not in get_args(Ranking):
            raise ValueError(f"ranking={shown(self.ranking)} is unknown: choose one of {', '.join(get_args(Ranking))}.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        ranking = protected_first(cues[LOOK].sort(descending=True, stable=True).indices, cues.protect)
        protected = 0 if cues.protect is None else cues.protect.shape[0]
        important = max(int(k * self.ratio), protected)
        mixed = self.ranking == "released"
        others = thin(cues[ROWS], ranking[important:], k - important, self.drop, mixed=mixed)
        order = torch.cat([ranking[:important], others])
        return Keep.from_order(order, cues[LOOK][order], cues.n)
