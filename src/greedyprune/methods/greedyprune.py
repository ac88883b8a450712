"""GreedyPrune: keep the most salient visual tokens such that no two kept ones are too similar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from greedyprune.cues import Cues, Need, Text
from greedyprune.keep import Certificate, Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.cosine import UnitRows, saliency
from greedyprune.ops.preprocess import Preprocess, Words, asked, comparable, part_of
from greedyprune.ops.redundancy import least_redundant
from greedyprune.ops.suppression import critical_tau, share_of_best, suppress
from greedyprune.ops.threshold import Quantile, Threshold
from greedyprune.stages import Layer, Stage

Fallback = Literal["saliency", "least_redundant", "relax", "none"]


@dataclass(frozen=True, kw_only=True)
class GreedyPrune(Method):
    """Choose S, |S| = k, with the largest total saliency such that cos(x_i, x_j) <= τ for all pairs in S, greedily.

    The saliency is w_i = cos(x_i, t), t the last prompt token at the same stage. Take the most salient token still
    active, deactivate every token whose cosine with it is above τ, repeat until k are taken; `fallback` fills what is
    missing when the active tokens run out. Gains are saliencies. Pei, Sun, Fu, Wang, arXiv 2506.13166.

    Differs: the paper's layer and τ are not public, so the cut is before decoder layer 2 and τ is the image's own 0.8
    quantile of pairwise cosines, the best such rule on the dev questions of the bundled models, or within a tenth of a
    point of it; decisions are those of float64, ties to the lowest index; `fallback`, `preprocess` and `text` are
    additions. At `Input()` the last prompt token is a template token that knows nothing of the question, so there
    `text="last"` is blind to it.
    Cost: O(n d) for the saliency, about O(V k d) for the suppression (V tokens looked at); a quantile adds O(n^2 d).
    """

    needs: ClassVar[tuple[Need, ...]] = (Text(),)

    at: Stage = Layer(2)
    tau: float | Threshold = Quantile(0.8)
    """The largest cosine two kept tokens may have: a number, or Quantile(q), MeanScaled(), Exact() to read it off."""
    fallback: Fallback = "saliency"
    """When no token is active before k are taken: fill up by saliency, fill up with what repeats the set least, raise τ
    until k can be taken, or return fewer than k ("none")."""
    preprocess: Preprocess = "none"
    """Before any cosine: nothing, the decoder's final RMS norm, or the mean of the visual tokens off every row."""
    text: Words = "last"
    """What saliency is measured against: the last prompt token, the mean of the question's tokens, or the question's
    token that is most similar (the last two are not the paper's)."""

    def __post_init__(self) -> None:
        for name, choices in (("fallback", Fallback), ("preprocess", Preprocess), ("text", Words)):
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose one of {known}.")
        number = isinstance(self.tau, (int, float)) and not isinstance(self.tau, bool)
        if not isinstance(self.tau, Threshold) and not (number and self.tau >= -1):
            raise ValueError(f"tau={self.tau!r} is no cosine: write a number from -1 to 1, or Quantile(0.8).")

    @property
    def reads(self) -> frozenset[str]:
        """The tokens, the text that they are measured against, and the final norm if it goes before."""
        words = (super().reads - {"text"}) | {part_of(self.text)}
        return words | {"norm"} if self.preprocess == "rmsnorm" else words

    @property
    def exact(self) -> bool:
        """It returns fewer than k only if the fallback is "none"."""
        return self.fallback != "none"

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        assert cues.text is not None
        rows, text = comparable(self.preprocess, cues.features, cues.text, cues.norm)
        x = UnitRows(rows)
        worth, ranking = saliency(x, asked(self.text, text, cues.question))
        given = cues.protect if cues.protect is not None and cues.protect.numel() else None
        free = ranking if given is None else ranking[~torch.isin(ranking, given)]
        tau = self.tau(x, free, k, given) if isinstance(self.tau, Threshold) else float(self.tau)
        found = suppress(x, free, tau, k, given=given)
        own, order = found.order, found.order
        if own.shape[0] < k and self.fallback == "relax":
            order = suppress(x, free, critical_tau(x, free, k, min(tau, 1.0), given=given), k, given=given).order
        elif own.shape[0] < k and self.fallback != "none":
            rest = free[~torch.isin(free, own)]
            missing = k - own.shape[0]
            fill = rest[:missing] if self.fallback == "saliency" else least_redundant(rows, own, rest, missing)
            order = torch.cat([own, fill])
        return Keep.from_order(
            order,
            worth[order],
            cues.n,
            before_fallback=own.shape[0],
            suppressed_by=found.of_dropped(order),
            certificate=Certificate(
                tau, found.largest, own.shape[0] < k, share_of_best(worth, own, protected_first(ranking, given)[:k])
            ),
        )
