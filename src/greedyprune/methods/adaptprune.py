"""AdaptPrune: soft suppression of visual tokens that are near a kept token on the grid and similar to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Attention, Cues, Grid, Keys, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.soft import centre_weights, nearby, soft_suppress
from greedyprune.stages import Layer, Stage

LOOK, KEYS = Attention("last_text"), Keys("decoder")


@dataclass(frozen=True, kw_only=True)
class AdaptPrune(Method):
    """Take the token with the highest score, then lower the scores of near and similar tokens. Repeat.

        gp.prune(model, gp.AdaptPrune(), keep=64)

    A score starts as the last prompt token's attention, mean over heads, times a Gaussian around the image's centre. A
    token within `radius`, d cells from the one just taken, keeps 1 - exp(-d²/(2 σ_d²)) exp(-(1 - cos)²/(2 σ_c²)) of
    its score. Here cos is the cosine of their keys. Gains are scores. Bozhi Luan et al., arXiv 2503.08019.

    Differs: keys are those of the layer's attention; the official code computes them from the layer's raw input,
    without norm and rotation. Kept tokens are never candidates again, even if all scores are 0. The centre's deviation
    is a share of the way from the first cell to the last (published: 12 of 24, on a scale of 24 for 23 cells). Tokens
    of one video frame do not suppress those of another. The user sets k; the source keeps a tenth. Ties go to the
    lowest index. Cost: one query at one layer, and O(radius² d) per kept token.
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, KEYS, Grid())
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer,)
    equivariant: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False

    at: Stage = Layer(2)
    centre: float = 0.5
    """The deviation of the centre's Gaussian, as a share of the way from the first cell to the last. Infinity: none."""
    radius: float = 5.0
    """The distance, in cells, within which a kept token lowers scores."""
    spread: float = 1.5
    """σ_d, in cells."""
    tolerance: float = 0.05
    """σ_c, in units of cosine."""

    def __post_init__(self) -> None:
        for name in ("centre", "radius", "spread", "tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} is no width: write a number above 0.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        assert cues.grid is not None
        score = cues[LOOK].double() * centre_weights(cues.grid, self.centre).to(cues.features.device)
        decay = nearby(cues[KEYS].flatten(1), cues.grid, self.radius, self.spread, self.tolerance)
        found = soft_suppress(score, decay, k, given=cues.protect)
        return Keep.from_order(found.order, found.gains, cues.n)
