"""SCOPE: keep the visual tokens that cover the image best, weighted by the attention of the class token."""

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
    """Take the token j with the largest a_j^α · sum over all tokens i of max(0, cos(f_i, f_j) - m_i), and repeat.

        gp.prune(model, gp.SCOPE(), keep=64)

    m_i is the largest cosine of token i with a kept one, 0 at first. The sum is the coverage of the image that j adds.
    a_j is the class token's attention to j, f the vision tower's rows. Gains are those products. Jinhong Deng et al.,
    NeurIPS 2025.

    Differs: if the tower has no class token, the mean attention of all its tokens is used. Attention is the mean over
    heads, equal to the source's sum up to a factor. Tokens are dropped after the projector, whose rows do not depend on
    each other, and keep their original positions. Protected tokens come first. Everything is float64; ties go to the
    lowest index. `preprocess` is an addition. Cost: O(n² d) once, then lazily O(n) per gain.
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, ROWS)
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()
    alpha: float = 1.0
    """The exponent of the attention: 0 is coverage alone."""
    preprocess: Centring = "none"
    """Before any cosine: "none" changes no row; "center" subtracts the mean visual token from each row (Cen-Prune)."""

    def __post_init__(self) -> None:
        check_centring(self.preprocess)
        if not self.alpha >= 0:
            raise ValueError(f"alpha={self.alpha!r}: write a number of 0 or more.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        rows = Alike(prepared(self.preprocess, cues[ROWS]))
        found = cover([rows], k, factor=cues[LOOK].double().pow(self.alpha), given=cues.protect)
        return Keep.from_order(found.order, found.gains, cues.n)
