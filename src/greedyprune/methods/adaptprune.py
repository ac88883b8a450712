"""AdaptPrune: soft suppression of visual tokens that are both near a kept token on the grid and like it."""

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
    """Take the token with the highest score; tokens within `radius` cells lose the more the nearer and liker they are.

    A score starts as the last prompt token's attention, mean over heads, times a Gaussian around the image's centre. A
    token d cells from the one just taken goes on with 1 - exp(-d²/(2 σ_d²)) exp(-(1 - cos)²/(2 σ_c²)) of its score, cos
    the cosine of their keys. Gains are scores. Bozhi Luan et al., arXiv 2503.08019.

    Differs: keys are those the layer's attention uses, where the official code makes them of the layer's raw input,
    without norm and rotation; kept tokens are never candidates again, also where all scores are 0; the centre's
    deviation is a share of the sides (published: 12 of 24 cells); frames of a video do not reach each other; k is asked
    for, where the source keeps a tenth; ties go to the lowest index. Cost: one query at one layer, and O(radius² d) per
    kept token.
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, KEYS, Grid())
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer,)
    equivariant: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False

    at: Stage = Layer(2)
    centre: float = 0.5
    """The centre Gaussian's deviation, as a share of each side of the grid; infinity: no preference for the centre."""
    radius: float = 5.0
    """How far a kept token reaches, in cells."""
    spread: float = 1.5
    """σ_d, in cells."""
    tolerance: float = 0.05
    """σ_c, in units of cosine."""

    def __post_init__(self) -> None:
        for name in ("centre", "radius", "spread", "tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} is no width: write a number above 0.")

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        assert cues.grid is not None
        score = cues[LOOK].double() * centre_weights(cues.grid, self.centre).to(cues.features.device)
        decay = nearby(cues[KEYS].flatten(1), cues.grid, self.radius, self.spread, self.tolerance)
        found = soft_suppress(score, decay, k, given=cues.protect)
        return Keep.from_order(found.order, found.gains, cues.n)
