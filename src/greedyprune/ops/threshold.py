"""Thresholds for suppression, computed from an image's own pairwise cosines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor

from greedyprune.keep import protected_first
from greedyprune.ops.cosine import DOUBT, UnitRows, cosine64, gram, unit64
from greedyprune.ops.ranking import strided
from greedyprune.ops.suppression import critical_tau

SAMPLED = 192
"""The largest number of rows whose pairs a quantile is read off. In image-like features of 576 rows a quantile of 0.8
is then off by .008 (root mean square of 12 images) and by .02 at most, as a share of all pairs."""


@dataclass(frozen=True)
class Quantile:
    """τ = the q-quantile of cos(x_i, x_j) over the image's pairs i < j: a share 1 - q of all pairs is too similar.

        GreedyPrune(tau=Quantile(0.8))

    Decoder states are anisotropic, so raw cosines are near 1 at one layer and near 0 at another. A quantile has the
    same meaning at every layer. Of more than `rows` tokens it reads the pairs of so many alone, at equal steps down the
    saliency ranking. So it is the same in every run and for every order of the tokens. Cost: O(n d + rows^2 d). Raises
    ValueError unless q is between 0 and 1, and rows 2 or more.
    """

    q: float
    rows: int = SAMPLED
    """The largest number of tokens whose pairs are read."""

    def __post_init__(self) -> None:
        if not 0 <= self.q <= 1:
            raise ValueError(f"Quantile({self.q!r}): q lies between 0 and 1, Quantile(0.8) is the default.")
        if isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 2:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"Quantile(rows={self.rows!r}): a pair takes two tokens, write 2 or more.")

    def __call__(self, x: UnitRows, ranking: Tensor, k: int, given: Tensor | None) -> float:
        """The threshold for these rows. `ranking`: all of them, the most salient first. (n, d), (n,) -> float"""
        return pairwise_quantile(x if ranking.shape[0] <= self.rows else x.x[strided(ranking, self.rows)], self.q)

    def at_once(self, units: Tensor, ranking: Tensor, k: int) -> Tensor:
        """The threshold of each image of a batch, on its device. Unit rows in float64. (b, n, d), (b, n) -> (b, 1)"""
        images = torch.arange(units.shape[0], device=units.device)[:, None]
        units = units[images, strided(ranking, self.rows)]
        n = units.shape[1]
        if n < 2:
            return units.new_ones(units.shape[0], 1)
        i, j = torch.triu_indices(n, n, 1, device=units.device).unbind()
        pairs = torch.bmm(units, units.mT).clamp_(-1, 1)[:, i, j].sort(1).values
        place = self.q * (pairs.shape[1] - 1)
        low, high = pairs[:, math.floor(place), None], pairs[:, math.ceil(place), None]
        return low + (place - math.floor(place)) * (high - low)


@dataclass(frozen=True)
class MeanScaled:
    """τ = (k / 32) · mean of cos(x_i, x_j) over the image's pairs i < j: PruneSID's rule.

        GreedyPrune(tau=MeanScaled())

    Zhengyao Fang et al., ICLR 2026. Differs: PruneSID compares tokens of one group alone with it. Cost O(n d).
    """

    def __call__(self, x: UnitRows, ranking: Tensor, k: int, given: Tensor | None) -> float:
        """The threshold for these rows. (n, d), (n,) -> float"""
        n = x.x.shape[0]
        if n < 2:
            return 1.0
        units = unit64(x.x)
        total = units.sum(0)
        # The sum over all ordered pairs is |sum of all rows|^2 without each row's product with itself.
        pairs = float(total @ total - units.square().sum())
        return k / 32 * pairs / (n * (n - 1))

    def at_once(self, units: Tensor, ranking: Tensor, k: int) -> Tensor:
        """The threshold of each image of a batch, on its device. Unit rows in float64. (b, n, d), (b, n) -> (b, 1)"""
        n = units.shape[1]
        if n < 2:
            return units.new_ones(units.shape[0], 1)
        pairs = units.sum(1).square().sum(1) - units.square().sum((1, 2))
        return (k / 32 * pairs / (n * (n - 1)))[:, None]


@dataclass(frozen=True)
class Exact:
    """τ = the smallest threshold, by 20 halvings of [-1, 1], at which greedy itself takes k tokens, without a fallback.

        GreedyPrune(tau=Exact())

    Cost: one Gram matrix, O(n^2 d), and 20 scans of at most k of its rows.
    """

    def __call__(self, x: UnitRows, ranking: Tensor, k: int, given: Tensor | None) -> float:
        """The threshold for these rows. `given` rows are taken first. (n, d), (n,), k, (p,) -> float"""
        free = ranking if given is None else protected_first(ranking, given)[given.shape[0] :]
        return critical_tau(x, free, k, given=given)


Threshold: TypeAlias = Quantile | MeanScaled | Exact


def pairwise_quantile(x: Tensor | UnitRows, q: float) -> float:
    """The q-quantile of cos(x_i, x_j) over pairs i < j, linear between order statistics, in float64. (n, d) -> float

    With fewer than two tokens there is no pair; the result is 1, which suppresses nothing. Cost O(n^2 d) time, O(n^2)
    memory.
    """
    rows = UnitRows.of(x)
    x = rows.x
    n = x.shape[0]
    if n < 2:
        return 1.0
    cosines = gram(rows.all())
    upper = torch.ones(n, n, dtype=torch.bool, device=x.device).triu_(1)
    place = q * (n * (n - 1) // 2 - 1)
    low = math.floor(place)
    values = _pairs_from_rank(x, cosines, upper, low)
    if place == low:
        return values[0]
    above = values[1] if len(values) > 1 else _pairs_from_rank(x, cosines, upper, low + 1)[0]
    return values[0] + (place - low) * (above - values[0])


def _pairs_from_rank(x: Tensor, cosines: Tensor, upper: Tensor, rank: int) -> list[float]:
    """Exact cosines of the pair with this rank (0 the lowest) and of those just above it. (n, d), 2 (n, n) -> floats

    An order statistic moves by no more than the largest error of its values. So the wanted pair lies within DOUBT of
    the float32 one, and only the pairs in that window are computed in float64.
    """
    pairs = cosines[upper]
    guess = pairs.kthvalue(rank + 1).values
    # Use one bound for both, else a pair whose distance from the guess rounds to DOUBT would be counted in neither.
    lowest = guess - DOUBT
    below = int((pairs < lowest).sum())
    window = (cosines >= lowest).logical_and_(cosines <= guess + DOUBT).logical_and_(upper)
    i, j = window.any(1).nonzero()[:, 0], window.any(0).nonzero()[:, 0]
    exact = cosine64(x[i], x[j])[window[i[:, None], j]]
    above = exact.sort().values[rank - below :]
    return cast("list[float]", above.tolist())  # pyright: ignore[reportUnknownMemberType]
