"""G-Prune: scores flow along the graph of similar tokens, and the tokens with the highest final scores stay."""

from __future__ import annotations

from dataclasses import dataclass

from greedyprune.cues import Cues
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.propagation import propagate
from greedyprune.ops.ranking import ranked
from greedyprune.stages import Input, Stage


@dataclass(frozen=True, kw_only=True)
class GPrune(Method):
    """Top-k by s_i / deg(i), s the norms of the tokens after some steps along the graph of cosines above a threshold.

        gp.prune(model, gp.GPrune(), keep=64)

    Token i is linked to every j with cos(x_i, x_j) > 0.5 and to itself. Scores start as s_i = |x_i|. In each of 5 steps
    a token passes its score along its links, in the proportion of softmax_j(cos(x_i, x_j) / 0.03). In the end a score
    is divided by deg(i), the number of links of i. It uses neither text nor attention. Gains are these scores, in units
    of the largest norm. Yutao Jiang et al., "What Kind of Visual Tokens Do We Need?", AAAI 2025.

    Differs: the paper does not fix the direction of the flow. Here, as in the released code, a token passes its whole
    score on, so the sum of scores is constant. All is float64; scores within 1e-12 are ties, which go to the lowest
    index. Cost: O(n^2 d) in float64, memory O(n^2).
    """

    at: Stage = Input()
    threshold: float = 0.5
    """Two tokens are linked if their cosine is above this."""
    temperature: float = 0.03
    """If it is lower, more of a score goes to the most similar tokens (and to the token itself)."""
    steps: int = 5
    """The number of steps in which scores are passed on."""

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold!r} is no cosine: write a number from -1 to 1.")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature!r}: write a number above 0, 0.03 is published.")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"steps={self.steps!r}: write the number of steps, an int of 0 or more.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        scores = propagate(cues.features, self.threshold, self.temperature, self.steps)
        order = protected_first(ranked(scores), cues.protect)[:k]
        return Keep.from_order(order, scores[order], cues.n)
