"""SparseVLM: keep the tokens most attended by the prompt's visual words, at three depths, and recycle dropped ones."""

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
"""The number of 576 tokens after each cut: for nothing, for the published budgets 64, 128, 192, and for everything."""


@dataclass(frozen=True, kw_only=True)
class SparseVLM(Method):
    """Top-k by the attention from the raters: the text tokens that are more similar to the image than the mean is.

        gp.prune(model, gp.SparseVLM(), keep=36)

    It is softmax attention, mean over heads and raters. Cuts follow layers 2, 6, 15 of 32; k stay after the last.
    k = 110, 36, 17 of 576 are the published "192", "128", "64"; other counts are interpolated linearly, in shares of n.
    Gains are the scores. Yuan Zhang et al., ICML 2025. Differs: nothing is recycled. k is the count after the last cut;
    the published name is a mean over layers. Other numbers of cuts keep equal shares. The paper's budget by rank is
    neither in its code nor here. Kept tokens keep their original positions. Ties go to the lowest index. Cost: the
    raters' attention at three layers.
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer, Layers, Depths)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Depths((3 / 32, 7 / 32, 16 / 32))

    def counts(self, k: int, n: int, cuts: int) -> list[int]:
        """The number of n tokens that stay after each cut: the first two from `TABLE`, no fewer than after the next."""
        if cuts != len(TABLE[0]) or not n:
            return super().counts(k, n, cuts)
        share = k * OF / n
        low, high = next((a, b) for a, b in pairwise(TABLE) if share <= b[-1])
        way = (share - low[-1]) / (high[-1] - low[-1])
        first, second = (math.floor((a + way * (b - a)) * n / OF + 0.5) for a, b in zip(low[:2], high[:2], strict=True))
        second = min(max(second, k), n)
        return [min(max(first, second), n), second, k]

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay at one cut. (n, d) -> Keep"""
        ranking = cues[LOOK].sort(descending=True, stable=True).indices
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, cues[LOOK][order], cues.n)


@dataclass(frozen=True, kw_only=True)
class SparseVLMRecycle(SparseVLM):
    """SparseVLM, but the best dropped tokens are clustered by density peaks, and each cluster's mean stays as a token.

        gp.prune(model, gp.SparseVLMRecycle(), keep=36)

    Of D dropped tokens the top r = floor(0.3 D) + 1 by score form floor(r / 10) + 1 clusters. Same source. Differs: at
    least half of k are whole tokens. A mean is at its cluster's centre, not appended. Cost: `SparseVLM` plus O(r^2 d).
    """

    equivariant: ClassVar[bool] = False  # of two recycled tokens that are mutual neighbours, the lower is the centre
    merges: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = True

    recycled: float = 0.3
    """The share of the dropped tokens that is recycled."""
    neighbours: int = 5
    """The number of neighbours of a density, 5 here unlike in the source."""

    def __post_init__(self) -> None:
        if not 0 <= self.recycled <= 1 or not is_count(self.neighbours, 1):
            given = f"recycled={self.recycled!r}, neighbours={self.neighbours!r}"
            raise ValueError(f"{given}: write a share from 0 to 1, and 1 neighbour or more.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the rows that stay at one cut, and compute the means. (n, d) -> Keep with weights"""
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
