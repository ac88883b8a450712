"""GreedyPrune: keep the most salient visual tokens so that no two kept ones are too similar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from greedyprune.checks import is_number
from greedyprune.cues import Cues
from greedyprune.keep import Certificate, Keep, protected_first
from greedyprune.ops.cosine import UnitRows, saliency
from greedyprune.ops.kernels.batch import AtOnce, Chosen, compared, protected_rows
from greedyprune.ops.kernels.suppression import greedy
from greedyprune.ops.preprocess import Preprocess, asked, comparable
from greedyprune.ops.ranking import ranked
from greedyprune.ops.redundancy import Fallback, filled
from greedyprune.ops.suppression import share_of_best, suppress
from greedyprune.ops.threshold import Exact, Quantile, Threshold
from greedyprune.saliencies import Weighing, read_saliency
from greedyprune.shown import shown
from greedyprune.stages import Layer, Stage


@dataclass(frozen=True, kw_only=True)
class GreedyPrune(AtOnce, Weighing):
    """Choose S, |S| = k, with the largest total saliency such that cos(x_i, x_j) <= τ for all pairs in S, greedily.

        gp.prune(model, gp.GreedyPrune(), keep=64)

    The saliency is w_i = cos(x_i, t), t the last prompt token at the same stage. Take the most salient active token,
    deactivate every token whose cosine with it is above τ, and repeat until k are taken. If none is active before,
    `fallback` takes the rest. Gains are saliencies. Pei, Sun, Fu, Wang, arXiv 2506.13166.

    Differs: the paper's layer and τ are not public. Here the cut is before decoder layer 2, and τ is the image's own
    0.8 quantile of pairwise cosines (see `Quantile`): the best such rule on the dev questions of the bundled models, or
    within 0.1 points of the best. Decisions are those of float64; ties go to the lowest index. `fallback`,
    `preprocess`, `text` and `saliency` are additions. At `Input()` the last prompt token is a template token, so
    `text="last"` ignores the question there.
    Cost: O(n d) for the saliency, about O(V k d) for the suppression of V tokens; a quantile adds O(n d), Exact()
    O(n^2 d). Memory: O(n d), with Exact() up to O(n^2).
    """

    at: Stage = Layer(2)
    tau: float | Threshold = Quantile(0.8)
    """The largest cosine of two kept tokens: a number, or a rule, Quantile(q), MeanScaled() or Exact()."""
    fallback: Fallback = "saliency"
    """The rest if none is active: the most salient, the least similar to kept ones, those of a higher τ, or none."""
    preprocess: Preprocess = "none"
    """Before any cosine: no change; the decoder's final RMS norm; or "center": all rows are scaled to length 1, then
    lose the mean of the visual ones. Cen-Prune subtracts the mean of rows as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("fallback", Fallback), ("preprocess", Preprocess)):
            if (given := getattr(self, name)) not in get_args(choices):
                raise ValueError(f"{name}={shown(given)} is unknown: choose one of {', '.join(get_args(choices))}.")
        if not isinstance(self.tau, Threshold) and not is_number(self.tau, -1):
            raise ValueError(f"tau={self.tau!r} is no cosine: write a number from -1 to 1, or Quantile(0.8).")

    @property
    def reads(self) -> frozenset[str]:
        """The tokens, what its saliency is read from, and the final norm if `preprocess` uses it."""
        return super().reads | {"norm"} if self.preprocess == "rmsnorm" else super().reads

    @property
    def exact(self) -> bool:
        """It returns fewer than k only if the fallback is "none"."""
        return self.fallback != "none"

    @property
    def stays(self) -> bool:
        """On a GPU it decides there, but not with Exact(), nor with a fallback that computes more cosines."""
        return self.fallback in ("saliency", "none") and not isinstance(self.tau, Exact)

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        given_worth = read_saliency(self.saliency, cues)
        asking = cues.features[:0] if given_worth is not None else asked(self.text, cues.text, cues.question)
        rows, words = comparable(self.preprocess, cues.features, asking, cues.norm)
        x = UnitRows(rows)
        worth, ranking = saliency(x, words) if given_worth is None else (given_worth, ranked(given_worth))
        free = ranking if cues.protect is None else protected_first(ranking, cues.protect)[cues.protect.numel() :]
        tau = self.tau(x, ranking, k, cues.protect) if isinstance(self.tau, Threshold) else float(self.tau)
        found = suppress(x, free, tau, k, given=cues.protect)
        own, order = found.order, filled(self.fallback, x, free, found.order, k, tau, cues.protect)
        best = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(
            order,
            worth[order],
            cues.n,
            before_fallback=own.shape[0],
            suppressed_by=found.of_dropped(order),
            certificate=Certificate(tau, found.largest, own.shape[0] < k, share_of_best(worth, own, best)),
        )

    def at_once(self, cues: Sequence[Cues], k: int) -> Chosen:
        """Choose the k rows that stay of images of one size, on their GPU. b of (n, d) -> Chosen"""
        rows, worth = compared(self, self.preprocess, cues)
        return greedy(rows, worth, self.tau, k, protected_rows(cues), fill=self.fallback == "saliency")
