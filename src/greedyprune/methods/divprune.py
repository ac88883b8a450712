"""DivPrune: keep the subset of visual tokens whose closest pair is as far apart as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.ops.centre import Centring, check_centring, prepared
from greedyprune.ops.cosine import unit64
from greedyprune.ops.farthest import farthest_first
from greedyprune.ops.kernels import picks
from greedyprune.ops.kernels.batch import AtOnce, Chosen, protected_rows
from greedyprune.stages import Input, Stage


@dataclass(frozen=True, kw_only=True)
class DivPrune(AtOnce):
    """Choose S, |S| = k, that maximises min over pairs in S of 1 - cos(x_i, x_j) (max-min diversity), greedily.

        gp.prune(model, gp.DivPrune(), keep=64)

    The first pick is the token whose nearest other token is farthest. Each next pick is the token farthest from its
    nearest kept one. It uses neither text nor attention. Gains are those distances. Alvar, Singh, Akbari, Zhang,
    CVPR 2025.

    Differs: kept tokens are never candidates again, so k near n is exact. Decisions are those of float64; ties go to
    the lowest index. A zero row has cosine 0 with every row. Protected tokens come first and replace the first pick.
    Kept tokens keep their original positions; newline tokens of tiled images are no candidates. `preprocess` is an
    addition. Cost: O(k n d). The first pick is O(n^2 d) at worst, far less if neighbours are similar. Memory: O(n d).
    """

    # Two tokens that are each other's nearest are equally isolated: the first pick of such a pair goes by index.
    equivariant: ClassVar[bool] = False

    at: Stage = Input()
    preprocess: Centring = "none"
    """Before any cosine: "none" changes no row; "center" subtracts the mean visual token from each row (Cen-Prune)."""

    def __post_init__(self) -> None:
        check_centring(self.preprocess)

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        found = farthest_first(prepared(self.preprocess, cues.features), k, given=cues.protect)
        return Keep.from_order(found.order, found.gains, cues.n)

    def at_once(self, cues: Sequence[Cues], k: int) -> Chosen:
        """Choose the k rows that stay of images of one size, on their GPU. b of (n, d) -> Chosen"""
        rows = torch.stack([prepared(self.preprocess, each.features) for each in cues])
        return Chosen(rows.shape[1], *picks.farthest_first(unit64(rows), k, given=protected_rows(cues)))
