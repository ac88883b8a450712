"""AgilePruner: go down the attention ranking and pass over tokens similar to kept ones, more strictly further down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Attention, Cues, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.groups import without
from greedyprune.ops.reach import suppress_by_own
from greedyprune.ops.spectrum import effective_rank
from greedyprune.stages import Input, Stage

LOOK = Attention("tower")


@dataclass(frozen=True, kw_only=True)
class AgilePruner(Method):
    """From the most attended token down, take a token i and pass over every later j with 1 - cos(x_i, x_j) < δ_i.

        gp.prune(model, gp.AgilePruner(), keep=64)

    δ_i = min(δ_max, r_i · erank / erank_avg · 0.01). r_i is the place of i in the ranking by the class token's
    attention, from 1. erank is the effective rank of the image: exp of the entropy of its singular values. So the top
    tokens may be similar and later ones may not, and a diverse image is spread wider. If fewer than k tokens remain,
    the most attended of the others fill the budget. Gains are the attention. Changwoo Baek et al., ICLR 2026.

    Differs: if the tower has no class token, the mean attention of all its tokens is used. The code is not released, so
    this is an interpretation. r_i counts all tokens, not only those taken. Rows are those at the stage, scaled to
    length 1. δ_max is 0.5. erank_avg is n / 6, since scenes have 23 of 144 on average in the bundled model; measure it
    in your model before you publish numbers. Decisions are those of float64; ties go to the lowest index. Cost: one
    query at one layer of the tower, O(k n d), and the eigenvalues of a Gram matrix, O(n^2 d + n^3).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK,)

    at: Stage = Input()
    step: float = 0.01
    """The growth of the distance δ per place in the ranking, for an average image."""
    delta_max: float = 0.5
    """The largest δ. Cosine distances lie between 0 and 2."""
    erank_avg: float | None = None
    """The effective rank of an average image of this model. None: a sixth of the image's tokens."""

    def __post_init__(self) -> None:
        for name in ("step", "delta_max"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)!r} is no cosine distance: write a number from 0.")
        if self.erank_avg is not None and not self.erank_avg > 0:
            raise ValueError(f"erank_avg={self.erank_avg!r}: write a number above 0, or None for n / 6.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        look = cues[LOOK]
        ranking = look.sort(descending=True, stable=True).indices
        pace = self.step * effective_rank(cues.features) / (self.erank_avg or cues.n / 6)
        taus = torch.empty(cues.n, dtype=torch.float64, device=look.device)
        place = torch.arange(1, cues.n + 1, dtype=torch.float64, device=look.device)
        taus[ranking] = 1 - (place * pace).clamp(max=self.delta_max)
        free = without(ranking, cues.protect)
        own = suppress_by_own(cues.features, free, taus, k, given=cues.protect)
        order = protected_first(ranking, own)[:k]
        return Keep.from_order(order, look[order], cues.n, before_fallback=own.shape[0])
