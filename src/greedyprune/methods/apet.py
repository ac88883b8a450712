"""ApET: keep the tokens that a few basis tokens cannot reproduce, and average the others into them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from greedyprune.checks import is_count
from greedyprune.cues import Cues, Encoded, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.matching import most_similar
from greedyprune.ops.merging import alone, cluster_means, merged
from greedyprune.ops.ranking import ranked
from greedyprune.ops.span import far_apart, missed
from greedyprune.shown import shown
from greedyprune.stages import Input, Stage

ROWS = Encoded()
Rows = Literal["tower", "tokens"]


@dataclass(frozen=True, kw_only=True)
class ApET(Method):
    """Keep M basis tokens and the k - M others with the largest error |x_i - B^T w_i|, w_i = (B B^T + ρI)^-1 B x_i.

        gp.prune(model, gp.ApET(), keep=64)

    The basis tokens B lie far from each other: each is the one farthest from those before it. A token that they
    reproduce well holds nothing new. Each dropped token joins the kept one of no basis with the most similar row (the
    cosine), and a kept token becomes the mean of itself and those that joined it. Rows are those of the vision tower.
    Gains are errors. Attention is never read. Qiankun Ma et al., CVPR 2026, and its released code.

    Differs: this is the first of two stages; the second does the same before decoder layer 16, which a cut there does
    (`rows="tokens"`). The first basis token is the one farthest from the mean, in the code a random one. Basis tokens
    stay at their own places; the code writes their rows over the M tokens with the smallest errors of those that it
    keeps, so these are lost. Means are of rows behind the projector. If k <= M, the first k basis tokens stay, and the
    others join them. Ties go to the lowest index. Cost: O(M n d + k n d).
    """

    merges: ClassVar[bool] = True

    at: Stage = Input()
    basis: int = 10
    """M, the number of basis tokens."""
    ridge: float = 1e-5
    """ρ."""
    merge: bool = True
    """False: kept rows stay as they are, and dropped ones are lost."""
    rows: Rows = "tower"
    """The rows that errors and cosines are of: the vision tower's, or the tokens' at the cut."""

    def __post_init__(self) -> None:
        if not is_count(self.basis, 1):
            raise ValueError(f"basis={self.basis!r}: write the number of basis tokens, 1 or more; 10 are published.")
        if not (self.ridge >= 0 and math.isfinite(self.ridge)):
            raise ValueError(f"ridge={self.ridge!r}: write a number from 0, such as 1e-5.")
        if self.rows not in get_args(Rows):
            raise ValueError(f"rows={shown(self.rows)} is unknown: choose one of {', '.join(get_args(Rows))}.")

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The vision tower's rows, unless the tokens' own are asked for."""
        return (ROWS,) if self.rows == "tower" else ()

    @property
    def reads(self) -> frozenset[str]:
        """The rows that it compares."""
        return super().reads - ({"tokens"} if self.rows == "tower" else set())

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the basis and the tokens that it misses, and compute the means. (n, d) -> Keep with weights"""
        x = cues[ROWS] if self.rows == "tower" else cues.features
        basis = far_apart(x, min(self.basis, k))
        error = missed(x, basis, self.ridge)
        ranking = ranked(error / error.max().clamp_min(torch.finfo(torch.float64).tiny))
        order = torch.cat([basis, ranking[~torch.isin(ranking, basis)]])[:k]
        weights = self._means(x, order, basis.shape[0]) if self.merge and k < cues.n else alone(order, cues.n)
        return merged(order, error[order], weights)

    def _means(self, x: Tensor, order: Tensor, basis: int) -> Tensor:
        """Weights of each kept row and those that join it. -> (k, n)"""
        first = basis if basis < order.shape[0] else 0
        joined, place = order[first:].sort()
        dropped = torch.ones_like(x[:, 0], dtype=torch.bool).index_fill(0, order, value=False).nonzero()[:, 0]
        of = order.new_full((x.shape[0],), -1)
        of[dropped] = first + place[most_similar(x[dropped], x[joined])[1]]
        of[order] = torch.arange(order.shape[0], device=order.device)
        return cluster_means(of, order.shape[0])
