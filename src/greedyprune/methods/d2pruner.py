"""D2Pruner: attention divided by what its place gets in any image, then tokens that are unlike those taken before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Attention, Cues, Grid, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.hybrid import suppress_near
from greedyprune.ops.places import PositionBias
from greedyprune.ops.suppression import suppress
from greedyprune.stages import Layer, Stage

LOOK = Attention("last_text")


@dataclass(frozen=True, kw_only=True)
class D2Pruner(Method):
    """Top floor(r k) by a_i / (b_i + ε); the rest of k by the same score, each unlike all of the rest taken before it.

        bias = gp.calibrate(model, prompts)
        gp.prune(model, gp.D2Pruner(bias=bias), keep=64)

    a_i is the last prompt token's attention to token i in the layer before the cut, and b_i the mean of it over many
    images: models look at some places more than at others, whatever is there. The rest is a maximal independent set,
    taken from the highest score down: a token is passed over if its similarity with one of the rest is above θ. It is
    (1 - s) cos(h_i, h_j) + s exp(-d²/2), d the distance in cells. The published s is 0 for questions and 0.5 for
    grounding. If too few are left, the best of those passed over fill the budget. Gains are the scores. Evelyn Zhang et
    al., AAAI 2026.

    Differs: without `bias` all b_i are equal, so the attention is as it is; the paper has no such case. The authors
    measure b_i with 1000 images of COCO. The shape of the paper's spatial term was not at hand, so exp(-d²/2) is
    ours; their repository could not be had either, so the constants are those that others' implementations name.
    Tokens of two frames are not near. A bias of another grid is read off bilinearly. Ties go to the lowest index;
    protected tokens count as top ones. Cost: one query at one layer, and O(k n d).
    """

    stages: ClassVar[tuple[type[Stage], ...]] = (Layer,)
    equivariant: ClassVar[bool] = False

    at: Stage = Layer(2)
    bias: PositionBias | None = None
    """b, from `gp.calibrate`. None: the same for every place."""
    pivots: float = 0.7
    """r, the share of k that the score alone chooses."""
    threshold: float = 0.8
    """θ: two tokens of the rest are no more similar than that."""
    spatial: float = 0.0
    """s, the share of nearness in the similarity: 0 for questions, 0.5 for grounding."""
    epsilon: float = 1e-7
    """ε, which keeps a place without attention from dividing by 0."""

    def __post_init__(self) -> None:
        for name in ("pivots", "spatial"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} is no share: write a number from 0 to 1.")
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold!r} is no similarity: write a number from -1 to 1.")
        if not (self.epsilon > 0 and math.isfinite(self.epsilon)):
            raise ValueError(f"epsilon={self.epsilon!r}: write a small number above 0, such as 1e-7.")
        if self.bias is not None and not isinstance(self.bias, PositionBias):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"bias is a {type(self.bias).__name__}: pass what gp.calibrate() returns, or None.")

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The attention, and the grid if nearness counts."""
        return (LOOK, Grid()) if self.spatial else (LOOK,)

    @property
    def reads(self) -> frozenset[str]:
        """The attention and the tokens, and the grid if nearness counts or the bias has one."""
        grid = self.bias is not None and self.bias.grid
        return super().reads | (frozenset({"grid"}) if grid else frozenset[str]())

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        score = cues[LOOK].double()
        if self.bias is not None:
            score = score / (self.bias.of(cues.n, cues.grid).to(score.device) + self.epsilon)
        ranking = protected_first(score.sort(descending=True, stable=True).indices, cues.protect)
        own = max(int(k * self.pivots), 0 if cues.protect is None else cues.protect.shape[0])
        pivots, others = ranking[:own], ranking[own:]
        if self.spatial:
            assert cues.grid is not None
            found = suppress_near(cues.features, others, cues.grid, self.spatial, self.threshold, k - own)
        else:
            found = suppress(cues.features, others, self.threshold, k - own)
        fill = others[~torch.isin(others, found.order)][: k - own - found.order.shape[0]]
        order = torch.cat([pivots, found.order, fill])
        by, taken = found.of_dropped(order), own + found.order.shape[0]
        return Keep.from_order(order, score[order], cues.n, before_fallback=taken, suppressed_by=by)
