"""MMR: maximal marginal relevance, a token's importance minus its similarity to the closest kept token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.ops.centre import Centring, check_centring
from greedyprune.ops.kernels import picks
from greedyprune.ops.kernels.batch import AtOnce, Chosen, compared, protected_rows
from greedyprune.ops.marginal import marginal_relevance
from greedyprune.ops.preprocess import asked, comparable
from greedyprune.ops.relevance import cosines_with, from_0_to_1
from greedyprune.saliencies import Weighing, read_saliency
from greedyprune.stages import Layer, Stage


@dataclass(frozen=True, kw_only=True)
class MMR(AtOnce, Weighing):
    """Take the token with the largest λ w_i - (1 - λ) max over kept s of cos(x_i, x_s), and repeat.

        gp.prune(model, gp.MMR(), keep=64)

    The importance w_i is cos(x_i, t), t the last prompt token at the same stage, or another `saliency`. It is scaled
    per image to 0 for the least and 1 for the most important token. Gains are those values. Carbonell and Goldstein,
    SIGIR 1998. With λ = 0.5 it is the rule of IDPruner, arXiv 2602.13315.

    Differs: IDPruner cuts before the decoder, and a trained selector gives its importance. Here the importance and the
    layer are those of GreedyPrune, so that the two rules can be compared. IDPruner's several picks per step are left
    out. Ties go to the lowest index. `text`, `saliency` and `preprocess` are additions. Cost: O(k n d). Memory: O(n d).
    """

    at: Stage = Layer(2)
    trade: float = 0.5
    """λ, from 0 (diversity alone, after the first token) to 1 (importance alone)."""
    preprocess: Centring = "none"
    """Before any cosine: "none" changes no row; "center" scales all rows to length 1, then subtracts the mean of the
    visual ones. Cen-Prune subtracts the mean of rows as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_centring(self.preprocess)
        if not 0 <= self.trade <= 1:
            raise ValueError(f"trade={self.trade!r} is no balance: write a number from 0 to 1.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        own = read_saliency(self.saliency, cues)
        asking = cues.features[:0] if own is not None else asked(self.text, cues.text, cues.question)
        x, words = comparable(self.preprocess, cues.features, asking, None)
        worth = from_0_to_1(cosines_with(x, words).amax(1) if own is None else own)
        found = marginal_relevance(x, worth, k, self.trade, given=cues.protect)
        return Keep.from_order(found.order, found.gains, cues.n)

    def at_once(self, cues: Sequence[Cues], k: int) -> Chosen:
        """Choose the k rows that stay of images of one size, on their GPU. b of (n, d) -> Chosen"""
        units, worth = compared(self, self.preprocess, cues)
        found = picks.marginal_relevance(units, from_0_to_1(worth), k, self.trade, given=protected_rows(cues))
        return Chosen(units.shape[1], *found)
