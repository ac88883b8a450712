"""Saliency: the k tokens most similar to the last prompt token. The control that shows what suppression adds."""

from __future__ import annotations

from dataclasses import dataclass

from greedyprune.cues import Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.cosine import saliency
from greedyprune.ops.ranking import ranked
from greedyprune.saliencies import NEEDS, Worth, check_saliency, read_saliency
from greedyprune.stages import Layer, Stage


@dataclass(frozen=True, kw_only=True)
class Saliency(Method):
    """Top-k by w_i = cos(x_i, t), t the last prompt token at the same stage: GreedyPrune with τ >= 1. A control.

        gp.prune(model, gp.Saliency(), keep=64)

    Differs: it has no source. Ties go to the lowest index. Gains are saliencies. Cost: O(n d).
    """

    at: Stage = Layer(2)
    saliency: Worth = "cosine"
    """The cosine; or in the decoder layer before the cut the "attention" of the last prompt token, the
    "question_attention" or the "key_norm"."""

    def __post_init__(self) -> None:
        check_saliency(self.saliency)

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The cue of its saliency."""
        return (NEEDS[self.saliency],)

    @property
    def reads(self) -> frozenset[str]:
        """The tokens and the last prompt token; or what its saliency is read from, and no token."""
        own = {"tokens", "last_text"} if self.saliency == "cosine" else {NEEDS[self.saliency].word}
        return frozenset({*own, "protect"})

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        own = read_saliency(self.saliency, cues)
        if own is None:
            assert cues.text is not None
            worth, ranking = saliency(cues.features, cues.text[-1:])
        else:
            worth, ranking = own, ranked(own)
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, worth[order], cues.n)
