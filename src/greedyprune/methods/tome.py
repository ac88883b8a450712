"""ToMe: merge the most similar tokens, pair by pair, until k are left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Cues, Keys, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.matching import merge_most_similar
from greedyprune.ops.merging import cluster_means, merged
from greedyprune.stages import Input, Stage

KEYS = Keys("tower")


@dataclass(frozen=True, kw_only=True)
class ToMe(Method):
    """Pair each even token with its most similar odd token. The most similar pairs become size-weighted means. Repeat.

        gp.prune(model, gp.ToMe(), keep=64)

    Similarity is the cosine of keys, mean over heads. A round merges at most half of the tokens; rounds repeat until k
    are left. Gains are the numbers of merged tokens. Bolya et al., ICLR 2023, here before the decoder.

    Differs: the source merges r pairs in every block of the vision tower and adds log(size) to its attention. Here the
    finished rows are merged at once, by the keys of one layer. The key of a merged token is the mean of its keys, and
    the decoder does not know sizes. Tokens stay in raster order, so each round counts even and odd among those left. A
    merged token has the original position of its odd member. Cost: O(n^2 c) for keys of width c.
    """

    needs: ClassVar[tuple[Need, ...]] = (KEYS,)
    equivariant: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = False

    at: Stage = Input()

    def select(self, cues: Cues, k: int) -> Keep:
        """Compute the k means. (n, d) -> Keep with weights"""
        found = merge_most_similar(cues[KEYS].double().mean(1), k)
        return merged(found.rows, found.of.bincount(minlength=k).float(), cluster_means(found.of, k))
