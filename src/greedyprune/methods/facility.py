"""Facility location: keep visual tokens so that every token has a kept one that is as similar as possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.centre import Centring, check_centring, prepared, prepared_with
from greedyprune.ops.coverage import Alike, cover
from greedyprune.ops.relevance import cosines_with, from_0_to_1
from greedyprune.shown import shown
from greedyprune.stages import Input, Stage

Weights = Literal["uniform", "saliency"]


@dataclass(frozen=True, kw_only=True)
class FacilityLocation(Method):
    """Choose S, |S| = k, that maximises sum over tokens i of ω_i max(0, max over s in S of cos(x_i, x_s)), greedily.

        gp.prune(model, gp.FacilityLocation(), keep=64)

    The objective is monotone and submodular, so the greedy set has at least 1 - 1/e of the best value. Gains are the
    values that each token adds. Cornuejols, Fisher, Nemhauser, 1977; the lazy greedy algorithm is Minoux, 1978.

    Differs: a token that is similar to no kept one counts as 0, not less. Ties go to the lowest index. `preprocess` is
    an addition. Cost: O(n² d) once in float64, then O(n) for each of a few per cent of the n k gains.
    """

    # Two tokens that would cover only themselves and each other add the same value: the lower index wins.
    equivariant: ClassVar[bool] = False

    at: Stage = Input()
    weights: Weights = "uniform"
    """ω: 1 for every token, or its cosine with the last prompt token at the stage, scaled to 0..1 over the image."""
    preprocess: Centring = "none"
    """Before any cosine: "none" changes no row; "center" subtracts the mean visual token from each row (Cen-Prune)."""

    def __post_init__(self) -> None:
        check_centring(self.preprocess)
        if self.weights not in get_args(Weights):
            raise ValueError(f"weights={shown(self.weights)} is unknown: choose one of {', '.join(get_args(Weights))}.")

    @property
    def reads(self) -> frozenset[str]:
        """The tokens, and the last prompt token if it weighs them."""
        return super().reads | {"last_text"} if self.weights == "saliency" else super().reads

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        x, weights = prepared(self.preprocess, cues.features), None
        if self.weights == "saliency":
            if cues.text is None or not cues.text.shape[0]:
                raise ValueError('weights="saliency" needs text=, the (m, d) rows of the prompt at the same stage.')
            text = prepared_with(self.preprocess, cues.features, cues.text)[1]
            weights = from_0_to_1(cosines_with(x, text[-1:])[:, 0])
        found = cover([Alike(x, weights)], k, given=cues.protect)
        return Keep.from_order(found.order, found.gains, cues.n)
