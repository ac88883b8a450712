"""Greedy suppression on a device: the rule, its ties and its fallback to the ranking are those of `ops/suppression.py`.

Cost: O(k n d), or O(n^2 d) if n <= d, in float64, for all images together; `chosen.py` says who makes the picks.
Memory: O(n d) per image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from greedyprune.keep import Certificate, Keep
from greedyprune.ops.cosine import SLACK
from greedyprune.ops.kernels.batch import Chosen
from greedyprune.ops.kernels.chosen import suppressing
from greedyprune.ops.kernels.pairs import Pairs
from greedyprune.ops.ranking import ranked
from greedyprune.ops.suppression import share_of
from greedyprune.ops.threshold import Exact, Threshold


@dataclass(frozen=True, eq=False)
class Suppressed:
    """The rows that the engine took and passed over in each image."""

    order: Tensor
    """(b, k) the rows taken, given ones first, then the rule's, then the highest of the ranking that are left."""
    own: Tensor
    """(b, k) True for given rows and the rule's."""
    by: Tensor
    """(b, n) the row that each row was passed over for; -1 if there is none, or if the rule stopped before it."""
    largest: Tensor
    """(b,) the largest cosine between two rows of `own`, -1 if there are fewer than two."""


def suppress(units: Tensor, ranking: Tensor, tau: Tensor, k: int, *, given: Tensor | None = None) -> Suppressed:
    """Suppression in each image: down its ranking, up to k rows. (b, n, d), (b, n), (b, 1), (b, p) -> Suppressed

    Ranking: all rows, given ones among them.
    """
    given = ranking[:, :0] if given is None else given
    rank = _places(ranking)
    order, rule, by, largest = suppressing(Pairs(units), rank, given, tau + SLACK, k)
    if given.shape[1] == k:
        by = torch.full_like(by, -1)
    else:  # behind the last row of a full selection nobody looked
        by = by.masked_fill(rule[:, -1:] & (rank > rank.gather(1, order[:, -1:])), -1)
    return Suppressed(order, rule, by, largest)


def greedy(
    units: Tensor,
    worth: Tensor,
    tau: float | Threshold,
    k: int,
    given: Tensor | None,
    *,
    fill: bool,
) -> Chosen:
    """GreedyPrune in each image: rank by worth, suppress by tau, and `fill` up to k. (b, n, d), (b, n), (b, p)"""
    assert not isinstance(tau, Exact), "Exact() searches, and a search waits for what it finds."
    ranking = ranked(worth)
    limit = tau.at_once(units, ranking, k) if isinstance(tau, Threshold) else worth.new_full((1, 1), tau)
    found = suppress(units, ranking, limit, k, given=given)
    gains = worth.gather(1, found.order)

    def complete(keep: Keep, told: list[float]) -> Keep:
        count, total, least, taken, threshold, largest = told
        own, by = int(count), keep.suppressed_by
        proof = Certificate(threshold, largest, own < k, share_of(total, least, taken))
        if fill or own == k:
            return replace(keep, certificate=proof)
        order, gains = keep.order[:own], keep.gains[:own]
        return Keep.from_order(order, gains, keep.n, suppressed_by=by, certificate=proof)

    own = found.own.sum(1)
    told = [own, *_shares(worth, found, ranking, given), limit[:, 0].expand(len(worth)), found.largest]
    return Chosen(
        worth.shape[1],
        found.order,
        gains,
        torch.stack([each.double() for each in told], 1),
        own,
        found.by.scatter(1, found.order, -1) if fill else found.by,
        complete,
    )


def _places(ranking: Tensor) -> Tensor:
    """The place of every row in its ranking. (b, n) -> (b, n)"""
    places = torch.arange(ranking.shape[1], device=ranking.device).expand_as(ranking)
    return torch.empty_like(ranking).scatter_(1, ranking, places)


def _shares(worth: Tensor, found: Suppressed, ranking: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The best k rows' total worth and their least, and the total of `own`. (b, n) -> 3 (b,)"""
    k, places = found.order.shape[1], _places(ranking)
    if given is not None:
        places = places.scatter(1, given, torch.arange(-given.shape[1], 0, device=given.device).expand_as(given))
    best = worth.gather(1, places.argsort(1)[:, :k])
    own = worth.gather(1, found.order).masked_fill(~found.own, 0.0)
    return best.sum(1), best.amin(1), own.sum(1)
