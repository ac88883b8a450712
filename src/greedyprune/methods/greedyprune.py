"""GreedyPrune: keep the most salient visual tokens such that no two kept ones are too similar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from greedyprune.cues import Cues, Need, Text
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.cosine import saliency
from greedyprune.ops.suppression import suppress
from greedyprune.ops.threshold import Quantile
from greedyprune.stages import Layer, Stage

if TYPE_CHECKING:
    from torch import Tensor

FALLBACKS = ("saliency", "none")


@dataclass(frozen=True, kw_only=True)
class GreedyPrune(Method):
    """Choose S, |S| = k, with the largest total saliency such that cos(x_i, x_j) <= τ for all pairs in S, greedily.

    The saliency is w_i = cos(x_i, t), t the last prompt token at the same stage. Take the most salient token still
    active, deactivate every token whose cosine with it is above τ, repeat until k are taken; `fallback` fills what is
    missing when the active tokens run out. Gains are saliencies. Pei, Sun, Fu, Wang, arXiv 2506.13166.

    Differs: the paper's layer and τ are not public, so the cut is before decoder layer 2 and τ is the image's own 0.8
    quantile of pairwise cosines, the best rule on the dev questions of the bundled model; decisions are those of
    float64, ties to the lowest index. At `Input()` the last prompt token is a template token that knows nothing of the
    question, so there the saliency is blind to it.
    Cost: O(n d) for the saliency, about O(V k d) for the suppression (V tokens looked at); a quantile adds O(n^2 d).
    """

    needs: ClassVar[tuple[Need, ...]] = (Text(),)

    at: Stage = Layer(2)
    tau: float | Quantile = Quantile(0.8)
    """The largest cosine two kept tokens may have: a number, or a rule that reads it off the image."""
    fallback: Literal["saliency", "none"] = "saliency"
    """When every token is taken or suppressed before k: fill up by saliency, or return fewer than k."""

    def __post_init__(self) -> None:
        if self.fallback not in FALLBACKS:
            raise ValueError(f"fallback={self.fallback!r} is unknown: choose one of {', '.join(FALLBACKS)}.")
        if not isinstance(self.tau, Quantile) and not self.tau >= -1:
            raise ValueError(f"tau={self.tau!r} is no cosine: write a number from -1 to 1, or Quantile(0.8).")

    @property
    def exact(self) -> bool:
        """It returns fewer than k only if the fallback is "none"."""
        return self.fallback != "none"

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        assert cues.text is not None
        x = cues.features
        worth, ranking = saliency(x, cues.text[-1])
        found = suppress(x, ranking, self._threshold(x), k)
        order = found.order
        if self.exact and order.shape[0] < k:
            order = torch.cat([order, _remaining(ranking, order)[: k - order.shape[0]]])
        return Keep.from_order(
            order,
            worth[order],
            cues.n,
            before_fallback=found.order.shape[0],
            suppressed_by=_of_dropped(found.by, order),
        )

    def _threshold(self, x: Tensor) -> float:
        return self.tau(x) if isinstance(self.tau, Quantile) else float(self.tau)


def _remaining(ranking: Tensor, taken: Tensor) -> Tensor:
    """The ranking without the rows taken. (n,), (m,) -> (n - m,)"""
    free = torch.ones_like(ranking, dtype=torch.bool)
    free[taken] = False
    return ranking[free[ranking]]


def _of_dropped(by: Tensor, order: Tensor) -> Tensor:
    """Whom each dropped row was passed over for; -1 for rows that a fallback took after all. (n,), (k,) -> (n,)"""
    by = by.clone()
    by[order] = -1
    return by
