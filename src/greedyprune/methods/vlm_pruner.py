"""VLM-Pruner: start at a few tokens that lie far apart and grow outwards, near cells first, then take in the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from greedyprune.checks import is_count
from greedyprune.cues import Cues, Grid, Keys, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.channels import most_varied
from greedyprune.ops.cosine import unit64
from greedyprune.ops.growing import grow, rings
from greedyprune.ops.matching import most_similar
from greedyprune.ops.merging import alone, merged
from greedyprune.ops.span import far_apart
from greedyprune.stages import Layer, Stage

KEYS = Keys("decoder")


@dataclass(frozen=True, kw_only=True)
class VLMPruner(Method):
    """From p pivots outwards: take tokens with M_i < θ, in rounds with θ + 0.1 each, M_i lowest first.

        gp.prune(model, gp.VLMPruner(), keep=64)

    M_i = max over s in S of cos(h_i, h_s) (1 + λ d_i / D), S the tokens taken so far, d_i the distance in cells of i to
    the nearest of them, D the diagonal of the grid: a token far away must be less similar to be taken, so the selection
    grows from the pivots. Pivots: the token with the longest key (L1), then the one whose key is farthest from those
    before. Tokens are taken 16 at a time, and M_i is computed again for every 16. The cosine is of the c channels of
    the states with the largest variance. A dropped token joins the most similar kept one, and a kept token becomes
    β h_i + (1 - β) times the mean of those that joined it, weighted by their cosines. Gains are 1 - M_i. Zhenkai Wu et
    al., CVPR 2026, and its released code.

    Differs: a round that takes nothing ends the released code with fewer than k tokens; here the next round begins. In
    a grid of any size D is its diagonal, 24 √2 in the code; tokens of two frames are D apart. If there are fewer than c
    channels, all count. If the cosines that joined a token sum to 0 or less, it stays as it is. The gain of a pivot is
    2. Ties go to the lowest index. Cost: O(k n c).
    """

    needs: ClassVar[tuple[Need, ...]] = (KEYS, Grid())
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer,)
    equivariant: ClassVar[bool] = False
    merges: ClassVar[bool] = True

    at: Stage = Layer(2)
    pivots: int = 4
    """p."""
    threshold: float = 0.8
    """θ of the first round."""
    spread: float = 0.5
    """λ, what distance weighs."""
    batch: int = 16
    """The number of tokens that are taken at a time."""
    channels: int = 256
    """c."""
    own: float = 0.3
    """β, the share of a kept token in its mean. 1: dropped tokens are lost."""

    def __post_init__(self) -> None:
        for name in ("pivots", "batch", "channels"):
            if not is_count(getattr(self, name), 1):
                raise ValueError(f"{name}={getattr(self, name)!r}: write a whole number of 1 or more.")
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold!r} is no similarity: write a number from -1 to 1.")
        if not (self.spread >= 0 and math.isfinite(self.spread)):
            raise ValueError(f"spread={self.spread!r}: write a number from 0; 0.5 is published.")
        if not 0 <= self.own <= 1:
            raise ValueError(f"own={self.own!r} is no share: write a number from 0 to 1.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Grow from the pivots, and take in the dropped tokens. (n, d) -> Keep with weights"""
        assert cues.grid is not None
        keys, units = cues[KEYS].flatten(1), unit64(most_varied(cues.features, self.channels))
        longest = int(keys.double().abs().sum(1).argmax())
        pivots = far_apart(keys, min(self.pivots, k), first=longest)
        found = grow(units, rings(cues.grid, units.device), pivots, self.threshold, self.spread, self.batch, k)
        weights = alone(found.order, cues.n).double()
        if self.own < 1 and k < cues.n:
            weights = _taken_in(weights, units, found.order, self.own)
        return merged(found.order, found.gains, weights)


def _taken_in(weights: Tensor, units: Tensor, order: Tensor, own: float) -> Tensor:
    """Add to each kept row those that join it, weighted by their cosines with it. (k, n), (n, c), (k,) -> (k, n)"""
    lowest, place = order.sort()
    dropped = torch.ones_like(units[:, 0], dtype=torch.bool).index_fill(0, order, value=False).nonzero()[:, 0]
    similar, nearest = most_similar(units[dropped], units[lowest])
    joined = torch.zeros_like(weights)
    joined[place[nearest], dropped] = similar
    total = joined.sum(1, keepdim=True)
    means = joined / torch.where(total > 0, total, 1)
    return torch.where(total > 0, own * weights + (1 - own) * means, weights)
