"""ZSPAPrune: a core of the tokens most similar to the prompt, then the tokens least similar to the kept ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Cues, Need, Text
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.centre import Centring, check_centring, prepared_with
from greedyprune.ops.farthest import farthest_first
from greedyprune.ops.preprocess import mean_row
from greedyprune.ops.ranking import ranked
from greedyprune.ops.relevance import cosines_with
from greedyprune.stages import Input, Stage


@dataclass(frozen=True, kw_only=True)
class ZSPAPrune(Method):
    """Top-c by cos(x_i, t), t the mean of all prompt rows. Then add the token farthest from its nearest kept one.

        gp.prune(model, gp.ZSPAPrune(), keep=64)

    Gains are those cosines for the core, then distances 1 - cosine. Zero-shot prompt-aware pruning, arXiv 2510.17197.

    Differs: it follows descriptions of the method. The published share of the core was not available, so it is one
    half. The next token is the one farthest from its nearest kept token, as in DivPrune. Protected tokens come first
    and count towards the core's share of k. Ties go to the lowest index. `preprocess` is an addition.
    Cost: O(k n d). Memory: O(n d).
    """

    needs: ClassVar[tuple[Need, ...]] = (Text(),)

    at: Stage = Input()
    core: float = 0.5
    """The share of the kept tokens that is chosen by similarity to the prompt: rounded, at least one token."""
    preprocess: Centring = "none"
    """Before any cosine: "none" changes no row; "center" subtracts the mean visual token from each row (Cen-Prune)."""

    def __post_init__(self) -> None:
        check_centring(self.preprocess)
        if not 0 <= self.core <= 1:
            raise ValueError(f"core={self.core!r} is no share of the budget: write a number from 0 to 1.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        assert cues.text is not None
        x, text = prepared_with(self.preprocess, cues.features, cues.text)
        worth = cosines_with(x, mean_row(text)[None])[:, 0]
        guarded = 0 if cues.protect is None else cues.protect.shape[0]
        size = max(math.floor(self.core * k + 0.5), guarded, 1)
        core = protected_first(ranked(worth), cues.protect)[:size]
        found = farthest_first(x, k, given=core)
        return Keep.from_order(found.order, torch.cat([worth[core], found.gains[size:]]), cues.n)
