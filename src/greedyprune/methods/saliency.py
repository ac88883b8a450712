"""Saliency: the k tokens most similar to the last prompt token. The control that shows what suppression adds."""

from __future__ import annotations

from dataclasses import dataclass

from greedyprune.cues import Cues
from greedyprune.keep import Keep, protected_first
from greedyprune.ops.cosine import saliency
from greedyprune.ops.preprocess import asked
from greedyprune.ops.ranking import ranked
from greedyprune.saliencies import Weighing, read_saliency
from greedyprune.stages import Layer, Stage


@dataclass(frozen=True, kw_only=True)
class Saliency(Weighing):
    """Top-k by w_i = cos(x_i, t), t the last prompt token at the same stage: GreedyPrune with τ >= 1. A control.

        gp.prune(model, gp.Saliency(), keep=64)

    Differs: it has no source. Ties go to the lowest index. Gains are saliencies. Cost: O(n d).
    """

    at: Stage = Layer(2)

    @property
    def reads(self) -> frozenset[str]:
        """What its saliency is read from; the tokens only for the cosine."""
        return super().reads if self.saliency == "cosine" else super().reads - {"tokens"}

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        own = read_saliency(self.saliency, cues)
        if own is None:
            worth, ranking = saliency(cues.features, asked(self.text, cues.text, cues.question))
        else:
            worth, ranking = own, ranked(own)
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, worth[order], cues.n)
