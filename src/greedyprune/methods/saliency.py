"""Saliency: the k tokens most similar to the last prompt token. The control that shows what suppression adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Cues, Need, Text
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.cosine import saliency
from greedyprune.stages import Layer, Stage


@dataclass(frozen=True, kw_only=True)
class Saliency(Method):
    """Top-k by w_i = cos(x_i, t), t the last prompt token at the same stage: GreedyPrune with τ >= 1. A control.

        gp.prune(model, gp.Saliency(), keep=64)

    Differs: it has no source. Ties go to the lowest index. Gains are saliencies. Cost: O(n d).
    """

    needs: ClassVar[tuple[Need, ...]] = (Text(),)

    at: Stage = Layer(2)

    @property
    def reads(self) -> frozenset[str]:
        """The tokens and the last prompt token."""
        return frozenset({"tokens", "last_text", "protect"})

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        assert cues.text is not None
        worth, ranking = saliency(cues.features, cues.text[-1:])
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, worth[order], cues.n)
