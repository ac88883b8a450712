"""PruMerge and PruMerge+: keep the tokens most attended by the class token (plus a sample), and add neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from greedyprune.checks import is_count
from greedyprune.cues import Attention, Cues, Keys, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.matching import nearest_others
from greedyprune.ops.merging import alone, evenly, merged, normalised, weighted_sums
from greedyprune.ops.ranking import outliers
from greedyprune.ops.split import split
from greedyprune.stages import Input, Stage

LOOK, KEYS = Attention("tower", heads="one"), Keys("tower")


@dataclass(frozen=True, kw_only=True)
class PruMerge(Method):
    """Top tokens by the class token's attention a_i. Each becomes x_i + the sum of a_j x_j over its 32 nearest tokens.

        gp.prune(model, gp.PruMerge(), keep=64)

    Attention and keys are of one head of full width. Gains are attention weights. Yuzhang Shang et al., ICCV 2025.

    Differs: if the tower has no class token, the mean attention of all its tokens is used. Exactly k stay unless
    `adaptive`. The sum of the dropped is one of the k, at the most attended of them. Queries and keys are of the layer
    that the projector reads, not layer 23. Rows are summed after the projector, and keep raster order and positions.
    Ties go to the lowest index. At k = n nothing is merged. Cost: one query at one tower layer, O(n k c), keys (n, c).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, KEYS)
    merges: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()
    adaptive: bool = False
    """True: keep only outliers, a_i > Q3 + 1.5 (Q3 - Q1), at most k, as in the paper."""
    normalise: bool = False
    """True: scale every sum's weights to 1. These are means, as in the paper; the source's code does not do that."""
    rest: bool = True
    """True: one of the k is the sum of a_j x_j over all dropped j (from k = 2 on)."""
    neighbours: int = 32
    """The number of nearest tokens that are added to each kept one."""

    def __post_init__(self) -> None:
        if not is_count(self.neighbours, 1):
            raise ValueError(f"neighbours={self.neighbours!r}: write 1 or more, 32 are published.")

    @property
    def exact(self) -> bool:
        """False if the number of outliers decides."""
        return not self.adaptive

    def select(self, cues: Cues, k: int) -> Keep:
        """Compute the sums. (n, d) -> Keep with weights"""
        worth = cues[LOOK].double()
        ranking = worth.sort(descending=True, stable=True).indices
        spare = int(self.rest and 1 < k < cues.n)
        order = self._centres(worth, ranking, k - spare)
        weights = alone(order, cues.n).double()
        if order.shape[0] < cues.n:
            near = nearest_others(cues[KEYS].flatten(1), order, min(self.neighbours, cues.n - 1))
            weights += weighted_sums(near, worth)
        if spare:
            dropped = ranking[~torch.isin(ranking, order)]
            order, weights = torch.cat([order, dropped[:1]]), torch.cat([weights, weighted_sums(dropped[None], worth)])
        return merged(order, worth[order], normalised(weights) if self.normalise else weights)

    def _centres(self, worth: Tensor, ranking: Tensor, count: int) -> Tensor:
        """The kept tokens, the most attended first. (n,), (n,) -> (count,)"""
        return ranking[: min(count, outliers(worth)) if self.adaptive else count]


@dataclass(frozen=True, kw_only=True)
class PruMergePlus(PruMerge):
    """PruMerge with a sample: a quarter of the tokens by attention, three quarters evenly spread. Same source.

        gp.prune(model, gp.PruMergePlus(), keep=64)

    Differs: as `PruMerge`. `adaptive` does as the source, thinned evenly to k: m outliers and about 3 m others, every
    floor(floor(n/m)/3)-th. Else k is divided 1 : 3, with a sample of the other tokens. Cost: as `PruMerge`.
    """

    equivariant: ClassVar[bool] = False

    def _centres(self, worth: Tensor, ranking: Tensor, count: int) -> Tensor:
        """The top tokens, then the sample. (n,), (n,) -> (count,)"""
        many = outliers(worth) if self.adaptive else max(split(count, [1, 3])[0], 1)
        top = ranking[: min(many, count)]
        step = max(worth.shape[0] // many // 3, 1) if self.adaptive else 1
        sample = torch.arange(0, worth.shape[0] - self.adaptive, step, device=top.device)
        sample = sample[~torch.isin(sample, top)]
        return torch.cat([top, evenly(sample, min(sample.shape[0], count - top.shape[0]))])
