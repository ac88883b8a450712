"""CDPruner: a determinantal point process of visual tokens, conditioned on their relevance to the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Cues, Need, Text
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.centre import Centring, check_centring, prepared_with
from greedyprune.ops.determinantal import determinantal
from greedyprune.ops.preprocess import asked
from greedyprune.ops.ranking import ranked
from greedyprune.ops.relevance import cosines_with, from_0_to_1
from greedyprune.stages import Input, Stage


@dataclass(frozen=True, kw_only=True)
class CDPruner(Method):
    """Choose S, |S| = k, that maximises det L_S, L = diag(q) G diag(q), G the cosines of the tokens, greedily.

        gp.prune(model, gp.CDPruner(), keep=64)

    The quality q_i is ρ_i, the relevance of token i to the question, from 0 for the least to 1 for the most relevant.
    Or it is exp(α ρ_i), α = θ / (2 (1 - θ)), which weighs relevance against diversity. Gains are the factors by which
    det L_S grew. Qizhe Zhang et al., NeurIPS 2025.

    Differs: the published relevance comes from a CLIP text tower. Here the user's own model gives it as
    `cues.relevance` (larger is more relevant: CLIP's patch-text cosines point the other way). Without it, relevance is
    the mean cosine with the question's rows, as in OpenVINO with θ = 0.5. OpenVINO's split of the tokens into halves is
    left out. Values are scaled per image, not per batch of crops. If no token adds volume any more (L_S is singular
    up to rounding), the most relevant tokens fill the budget with gains of 0. Text rows are required even if relevance
    is given. `preprocess` is an addition. Cost: O(k n d), in float64 for a few tokens only.
    """

    needs: ClassVar[tuple[Need, ...]] = (Text(),)
    weighs_relevance: ClassVar[bool] = True

    at: Stage = Input()
    theta: float | None = None
    """θ if `cues.relevance` is given, from 0 (diversity alone) to 0.998. None: q = ρ, as published."""
    text_theta: float | None = 0.5
    """θ if the question's rows give the relevance. None: q = ρ."""
    preprocess: Centring = "none"
    """Before any cosine: "none" changes no row; "center" subtracts the mean visual token from each row (Cen-Prune)."""

    def __post_init__(self) -> None:
        check_centring(self.preprocess)
        for name, theta in (("theta", self.theta), ("text_theta", self.text_theta)):
            if theta is not None and not 0 <= theta <= 0.998:  # above, exp(α)² overflows
                raise ValueError(f"{name}={theta!r} is no balance: write a number from 0 to 0.998, or None.")

    @property
    def reads(self) -> frozenset[str]:
        """The tokens, and the question or the relevance that replaces it."""
        return (super().reads - {"text"}) | {"question"}

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        assert cues.text is not None
        x, text = prepared_with(self.preprocess, cues.features, cues.text)
        theta, relevance = self.theta, cues.relevance
        if relevance is None:
            theta, relevance = self.text_theta, cosines_with(x, asked("question_max", text, cues.question)).mean(1)
        rho = from_0_to_1(relevance)
        quality = rho if theta is None else (theta / (2 * (1 - theta)) * rho).exp()
        found = determinantal(x, quality, k, given=cues.protect)
        ranking = ranked(rho)
        fill = ranking[~torch.isin(ranking, found.order)][: k - found.order.shape[0]]
        gains = torch.cat([found.gains, found.gains.new_zeros(fill.shape[0])])
        order = torch.cat([found.order, fill])
        return Keep.from_order(order, gains, cues.n, before_fallback=found.order.shape[0])
