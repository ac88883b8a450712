"""SparseVLM: keep what the question's telling words look at most, at three depths; dropped tokens may be recycled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from greedyprune.checks import is_count
from greedyprune.cues import Attention, Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.clusters import density_peaks
from greedyprune.ops.merging import alone, cluster_means, merged
from greedyprune.stages import Depths, Layer, Layers, Stage

LOOK = Attention("raters")
OF = 576
TABLE = ((0, 0, 0), (66, 30, 17), (303, 110, 36), (300, 200, 110), (OF, OF, OF))
"""How many of 576 tokens the published budgets of 64, 128 and 192 keep after each cut; nothing and everything."""


@dataclass(frozen=True, kw_only=True)
class SparseVLM(Method):
    """Top-k by the attention a token gets from the raters: text tokens that resemble the image more than the mean does.

    It is the softmax attention in a layer, mean over heads and raters. Cuts follow layers 2, 6, 15 of 32. After three
    cuts k stay; k = 110, 36, 17 of 576 are the published budgets "192", "128", "64" with their published counts; other
    k, as shares of n, lie on straight lines between them. Gains are the scores. Yuan Zhang et al., ICML 2025.

    Differs: nothing is recycled (see `SparseVLMRecycle`); k tells what the last cut leaves, the published name a mean
    over layers; other numbers of cuts keep equal shares; the paper's budget by rank is not in its code and not here;
    kept tokens keep their original positions; ties go to the lowest index. Cost: the raters' attention at three layers.
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer, Layers, Depths)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Depths((3 / 32, 7 / 32, 16 / 32))

    def counts(self, k: int, n: int, cuts: int) -> list[int]:
        """How many of n tokens stay after each cut; the first two by `TABLE`, never fewer than after a later one."""
        if cuts != len(TABLE[0]) or not n:
            return super().counts(k, n, cuts)
        share = k * OF / n
        low, high = next((a, b) for a, b in pairwise(TABLE) if share <= b[-1])
        way = (share - low[-1]) / (high[-1] - low[-1])
        first, second = (math.floor((a + way * (b - a)) * n / OF + 0.5) for a, b in zip(low[:2], high[:2], strict=True))
        second = min(max(second, k), n)
        return [min(max(first, second), n), second, k]

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay at one cut. (n, d) -> Keep"""
        ranking = cues[LOOK].sort(descending=True, stable=True).indices
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, cues[LOOK][order], cues.n)


@dataclass(frozen=True, kw_only=True)
class SparseVLMRecycle(SparseVLM):
    """SparseVLM with recycling: the best of the dropped tokens are clustered, and each cluster's mean stays as a token.

    Of D dropped tokens the top floor(0.3 D) + 1 by score form a tenth as many clusters, floor and + 1 again, by
    density peaks over their states. Same source.

    Differs: the means count inside k, of which at least half are kept whole; a mean stands at its cluster's centre,
    where the source appends it; densities are over 5 neighbours. Cost: as `SparseVLM`, O(r^2 d) for r recycled tokens.
    """

    equivariant: ClassVar[bool] = False  # of two recycled tokens, each other's neighbours, the lower is the centre
    merges: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = True

    recycled: float = 0.3
    """Which share of the dropped tokens is recycled."""
    neighbours: int = 5
    """Over how many neighbours a density is taken."""

    def __post_init__(self) -> None:
        if not 0 <= self.recycled <= 1 or not is_count(self.neighbours, 1):
            given = f"recycled={self.recycled!r}, neighbours={self.neighbours!r}"
            raise ValueError(f"{given}: write a share from 0 to 1, and 1 neighbour or more.")

    def select(self, cues: Cues, k: int) -> Keep:
        """The rows that stay at one cut and the means. (n, d) -> Keep with weights"""
        ranking = cues[LOOK].sort(descending=True, stable=True).indices
        dropped = {whole: cues.n - whole for whole in range((k + 1) // 2, k + 1)}
        room = [w for w, d in dropped.items() if w + (int(self.recycled * d) + 1) // 10 + (d > 0) <= k]
        whole = max(room, default=(k + 1) // 2)
        order, of = ranking[:whole], torch.full_like(ranking, -1)
        if whole < k:
            pool = ranking[whole:][: max(int(self.recycled * dropped[whole]) + 1, k - whole)]
            found = density_peaks(cues.features[pool], k - whole, self.neighbours)
            order, of[pool] = torch.cat([order, pool[found.centres]]), found.of
        weights = torch.cat([alone(ranking[:whole], cues.n), cluster_means(of, k - whole)])
        return merged(order, cues[LOOK][order], weights)
