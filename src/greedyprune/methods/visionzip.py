"""VisionZip: keep the patches with most attention from the class token, and merge the others into a few tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Attention, Cues, Keys, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.matching import most_similar
from greedyprune.ops.merging import alone, cluster_means, merged
from greedyprune.ops.split import split
from greedyprune.stages import Input, Stage

LOOK, KEYS = Attention("tower"), Keys("tower")


@dataclass(frozen=True, kw_only=True)
class VisionZip(Method):
    """Dominant tokens: top-D by the class token's attention. Contextual tokens: C means of the others; D + C = k.

        gp.prune(model, gp.VisionZip(), keep=64)

    Of the R other tokens, in raster order, every floor(R/C)-th is a target. Each of the rest joins the target whose key
    (mean over heads) is most similar. A target becomes x_t + the mean of the tokens that joined it. Gains are attention
    weights. Senqiao Yang et al., CVPR 2025.

    Differs: if the tower has no class token, the mean attention of all its tokens is used. The published 54 + 10 of 64
    (108 + 20, 162 + 30) scale to any k by largest remainder. The published D counts the class token, which is no visual
    token here, so D patches are kept, one more. Means are of the projector's rows, not of the rows before it. Tokens
    are in raster order at their original positions, a merged one at its target's. Attention is the mean over heads, not
    the sum. Cost: one query at one layer of the tower, and O(R C d).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, KEYS)
    equivariant: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()
    contextual: float = 10 / 64
    """The share of the kept tokens that is contextual, at least one of two."""

    def __post_init__(self) -> None:
        if not 0 <= self.contextual < 1:
            raise ValueError(f"contextual={self.contextual!r} is no share: write 0 or more, and less than 1.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the dominant tokens and compute the merged ones. (n, d) -> Keep with weights"""
        ranking = cues[LOOK].sort(descending=True, stable=True).indices
        share = split(k, [1 - self.contextual, self.contextual])[1]
        count = min(max(share, int(self.contextual > 0)), k - 1)
        dominant, rest = ranking[: k - count], ranking[k - count :].sort().values
        targets = rest[:: rest.shape[0] // max(count, 1) or 1][:count]
        others = rest[~torch.isin(rest, targets)]
        order = torch.cat([dominant, targets])
        weights = alone(order, cues.n)
        if count and others.shape[0]:
            keys = cues[KEYS].double().mean(1)
            of = torch.full_like(ranking, -1)
            of[others] = most_similar(keys[others], keys[targets])[1]
            weights[k - count :] += cluster_means(of, count)
        return merged(order, cues[LOOK][order], weights)
