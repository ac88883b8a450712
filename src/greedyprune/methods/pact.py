"""PACT: drop tokens that get little attention from the image's mean query, and merge the others by distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Attention, Cues, Keys, Need
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.clusters import cosine_density
from greedyprune.ops.cosine import SLACK
from greedyprune.ops.matching import most_similar
from greedyprune.ops.merging import cluster_means, merged
from greedyprune.ops.ranking import ranked
from greedyprune.ops.suppression import critical_tau, suppress
from greedyprune.saliencies import lengths
from greedyprune.stages import Depths, Layer, Layers, Stage

LOOK, KEYS = Attention("image"), Keys("decoder")


@dataclass(frozen=True, kw_only=True)
class PACT(Method):
    """The floor(p n) tokens with the largest a_i |h_i| stay, and those within a distance of a dense one are averaged.

        gp.prune(model, gp.PACT(), keep=64)

    a_i is the softmax attention that the mean query of the image's tokens pays to token i, mean over heads, without
    rotation. It is a guess of what later queries will look at, and needs no text. Distances are 1 - cos of the tokens'
    keys. Of the tokens that stay, the densest one becomes a centre, then the densest with no centre within c, and so
    on. The density of i is the sum over j of exp(-(d_ij / w)²). Every other token, the dropped ones too, joins the
    nearest centre within α c, or is lost. A centre becomes the mean of its group. Gains are a_i |h_i|. Mohamed Dhouib
    et al., CVPR 2025, and its released code.

    Differs: the source fixes c = 0.21 and keeps as many centres as there are; here c is read off each image, so that k
    centres stay. `cutoff=0.21` fixes it, and then at most k stay, the densest. If k is more than p n, k tokens stay
    before the averages. Attention and keys are of the layer before the cut, and h_i of the states behind it; the
    source takes all three at one layer, 4. In the source special tokens between the tokens take part in the softmax,
    and the next layers' attention grows by the logarithm of a group's size (`restore="size"` of `gp.prune` does
    that). Ties go to the lowest index. Cost: queries and keys at one layer, and O(n² c).
    """

    needs: ClassVar[tuple[Need, ...]] = (LOOK, KEYS)
    stages: ClassVar[tuple[type[Stage], ...]] = (Layer, Layers, Depths)
    merges: ClassVar[bool] = True

    at: Stage = Layer(4)
    share: float = 0.55
    """p, the share of the tokens that may become centres; at least k may."""
    cutoff: float | None = None
    """c, the distance between centres. None: as large as k centres allow."""
    reach: float = 1.5
    """α: a token joins a centre within α c."""
    width: float = 2.0
    """w, the distance at which a neighbour counts 1/e."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share!r} is no share: write a number from 0 to 1.")
        if self.cutoff is not None and not 0 <= self.cutoff <= 2:
            raise ValueError(f"cutoff={self.cutoff!r} is no cosine distance: write a number from 0 to 2, or None.")
        for name in ("reach", "width"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name}={getattr(self, name)!r}: write a number above 0.")

    @property
    def exact(self) -> bool:
        """False if the distance decides how many centres there are."""
        return self.cutoff is None

    def select(self, cues: Cues, k: int) -> Keep:
        """Find the centres and compute the means. (n, d) -> Keep with weights"""
        worth = cues[LOOK].double() * lengths(cues.features.double())
        stay = worth.sort(descending=True, stable=True).indices[: max(int(cues.n * self.share), k)].sort().values
        keys = cues[KEYS].flatten(1)
        among = keys[stay]
        dense = ranked(cosine_density(among, self.width))
        tau = critical_tau(among, dense, k) if self.cutoff is None else 1 - self.cutoff
        centres = stay[suppress(among, dense, tau, k).order]
        similar, place = most_similar(keys, keys[centres])
        near = 1 - similar <= self.reach * (1 - tau) + SLACK
        of = torch.where(near, place, -1)
        of[centres] = torch.arange(centres.shape[0], device=of.device)
        return merged(centres, worth[centres], cluster_means(of, centres.shape[0]))
