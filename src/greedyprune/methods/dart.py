"""DART: keep a few pivot tokens, and for each pivot the tokens that are least similar to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.checks import is_count
from greedyprune.cues import Cues, Keys, Need, Text
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.matching import least_similar
from greedyprune.ops.preprocess import rmsnorm
from greedyprune.ops.ranking import ranked
from greedyprune.ops.split import split
from greedyprune.stages import Depths, Layer, Layers, Stage

KEYS, WORDS = Keys("decoder"), Keys("decoder", of="text")


@dataclass(frozen=True, kw_only=True)
class DART(Method):
    """Duplication-aware: pivots are the 4 visual and 4 text tokens whose keys are longest (L1 norm over all heads).

        gp.prune(model, gp.DART(), keep=64)

    The visual pivots are kept. Then each pivot in turn, visual ones first, by norm, adds the free tokens with the
    smallest cosine to it. All pivots add the same number. Rows are compared after the decoder's final norm. Gains are
    1 - that cosine, 2 for pivots. Zichen Wen et al., EMNLP 2025.

    Differs: the source keeps 4 + 8 floor(B/8) for a budget of B, 132 for 128. Here exactly k stay, and the first pivots
    add the remainder. Pivots have a fixed order; the source's is arbitrary. Ties go to the lowest index. A prompt with
    fewer text tokens has fewer pivots. Protected tokens are kept in addition to the pivots. Without `cues.norm` rows
    are compared as they are. Cost: O(p n d) for p pivots.
    """

    needs: ClassVar[tuple[Need, ...]] = (Text(), KEYS, WORDS)
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer, Layers, Depths)

    at: Stage = Layer(2)
    visual: int = 4
    """The number of visual pivots."""
    text: int = 4
    """The number of text pivots."""
    exact_budget: bool = True
    """Keep exactly k. False: every pivot adds floor((k - 4)/8), as published; k = 132 is the source's 128."""

    def __post_init__(self) -> None:
        if not is_count(self.visual, 1) or not is_count(self.text, 0):
            raise ValueError(f"visual={self.visual!r}, text={self.text!r}: write visual=1 or more, text=0 or more.")

    @property
    def reads(self) -> frozenset[str]:
        """The needed cues, and the final norm if it is given."""
        return super().reads | {"norm"}

    @property
    def exact(self) -> bool:
        """False if all pivots must add the same number."""
        return self.exact_budget

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the pivots and the tokens that they add. (n, d) -> Keep"""
        assert cues.text is not None
        x, words = cues.features.double(), cues.text.double()
        if cues.norm is not None:
            x, words = rmsnorm(x, cues.norm), rmsnorm(words, cues.norm)
        visual, text = (ranked(cues[keys].double().abs().sum((1, 2))) for keys in (KEYS, WORDS))
        visual, text = visual[: self.visual], text[: self.text]
        own = protected_first(visual, cues.protect)[:k]
        pivots = torch.cat([x[visual], words[text]])
        count = pivots.shape[0]
        free = k - own.shape[0]
        quotas = split(free, [1] * count) if self.exact_budget else [free // count] * count
        added, gains = least_similar(x, pivots, quotas, own)
        gains = torch.cat([gains.new_full(own.shape, 2.0), gains])
        return Keep.from_order(torch.cat([own, added]), gains, cues.n)
