"""SCOPE: keep the visual tokens that cover the image best, weighed by how much the class token looks at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Attention, Cues, Encoded, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.centre import Centring, check_centring, prepared
from greedyprune.ops.coverage import Alike, cover
from greedyprune.stages import Input, Stage

LOOK, ROWS = Attention("tower"), Encoded()


@dataclass(frozen=True, kw_only=True)
class SCOPE(Method):
    """Take the token j with the largest a_j^α · sum over all tokens i of max(0, cos(f_i, f_j) - m_i), again and again.

    m_i is the largest cosine of token i with a kept one, 0 at first: the sum is what j adds to the coverage of the
    image. a_j is the class token's attention to j, f the vision tower's rows. Gains are those products. Jinhong Deng et
    al., NeurIPS 2025.

    Differs: in towers without a class token the attention of all tokens on average stands in; attention is the mean
    over heads, the source's sum up to a factor; tokens leave behind the projector, whose rows do not depend on each
    other, and keep their original positions; protected tokens come first; everything is float64, ties go to the lowest
    index; `preprocess` is an addition. Cost: O(n² d) once, then lazily O(n) per gain.
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, ROWS)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()
    alpha: float = 1.0
    """How much attention counts: 0 is coverage alone."""
    preprocess: Centring = "none"
    """Before any cosine: nothing, or the mean of the visual tokens off every row ("center", Cen-Prune)."""

    def __post_init__(self) -> None:
        check_centring(self.preprocess)
        if not self.alpha >= 0:
            raise ValueError(f"alpha={self.alpha!r}: write a number of 0 or more.")

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        rows = Alike(prepared(self.preprocess, cues[ROWS]))
        found = cover([rows], k, factor=cues[LOOK].double().pow(self.alpha), given=cues.protect)
        return Keep.from_order(found.order, found.gains, cues.n)
