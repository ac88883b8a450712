"""GreedyPrune by the book, in float64 and plain loops: the reference that the fast engine must equal, order included.

It shares no code with the library. One convention is shared: float64 cosines within 1e-12 of each other, or of a
threshold, count as equal, which only matters for exact ties and for pairs that sit on the threshold exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLACK = 1e-12


def unit(row: Tensor) -> Tensor:
    """The row scaled to length 1 in float64; a zero row stays zero. (d,) -> (d,)"""
    row = row.double()
    largest = row.abs().max()
    if largest == 0:
        return row
    row = row / largest  # squares of any finite float32 stay in range
    return row / row.square().sum().sqrt()


def cosines(x: Tensor) -> list[list[float]]:
    """Cosine of every pair, each from its own dot product. (n, d) -> n lists of n"""
    units = torch.stack([unit(row) for row in x])
    return [[float((a * b).sum()) for b in units] for a in units]


def saliency(x: Tensor, t: Tensor) -> list[float]:
    """Cosine of every row with t. (n, d), (d,) -> n floats"""
    target = unit(t)
    return [min(1.0, max(-1.0, float((unit(row) * target).sum()))) for row in x]


def quantile(gram: list[list[float]], q: float) -> float:
    """The q-quantile over pairs i < j, linear between neighbours."""
    pairs = sorted(gram[i][j] for i in range(len(gram)) for j in range(i + 1, len(gram)))
    if not pairs:
        return 1.0
    place = q * (len(pairs) - 1)
    low = math.floor(place)
    high = min(low + 1, len(pairs) - 1)
    return pairs[low] + (place - low) * (pairs[high] - pairs[low])


def prepare(x: Tensor, text: Tensor, how: str, norm: Tensor, words: str, question: int) -> tuple[Tensor, Tensor]:
    """Preprocessing as documented: the words are chosen, then all rows are prepared, in float32. -> (n, d), (m, d)"""
    text = text[-1:] if words == "last" else text[question:]
    text = text.double().mean(0).float()[None] if words == "question_mean" else text
    if how == "rmsnorm":
        return x * norm, text * norm
    return centre(x, text) if how == "center" else (x, text)


def centre(x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Rows scaled to length 1, then without the mean visual one; none if that leaves rounding alone. -> float32"""
    mean = torch.stack([unit(row) for row in x]).mean(0)

    def apart(row: Tensor) -> Tensor:
        left = unit(row) - mean
        return left if bool(row.any()) and float(left.square().sum()) > SLACK**2 else 0 * left

    return torch.stack([apart(row) for row in x]).float(), torch.stack([apart(row) for row in text]).float()


def ranking_of(worth: list[float]) -> list[int]:
    """From the highest down; a chain of values each within 1e-12 of the next is one tie, ordered by index."""
    ranking = sorted(range(len(worth)), key=lambda i: -worth[i])
    result: list[int] = []
    tie: list[int] = []
    for i in ranking:
        if tie and worth[tie[-1]] - worth[i] > SLACK:
            result += sorted(tie)
            tie = []
        tie.append(i)
    return result + sorted(tie)


def nms(gram: list[list[float]], ranking: list[int], tau: float, k: int, given: list[int] = []) -> list[int]:  # noqa: B006
    """Given tokens first, then down the ranking whatever no taken token is too similar to, up to k."""
    taken = list(given)
    for i in ranking:
        if len(taken) == k:
            break
        if i not in given and all(gram[s][i] <= tau + SLACK for s in taken):
            taken.append(i)
    return taken


def bisect(gram: list[list[float]], ranking: list[int], k: int, given: list[int], low: float) -> float:
    """The smallest of 20 halvings at which k are taken."""
    high = 1.0
    for _ in range(20):
        tau = (low + high) / 2
        low, high = (low, tau) if len(nms(gram, ranking, tau, k, given)) == k else (tau, high)
    return high


def greedy(
    x: Tensor, t: Tensor, k: int, tau: float | str = 0.5, q: float | None = None, fallback: str = "saliency",
    given: list[int] = [],  # noqa: B006
) -> tuple[list[int], int]:  # fmt: skip
    """Selection order and how many were taken before the fallback. tau is a number, "mean" or "exact"; or give q."""
    gram = cosines(x)
    worth = [max(row) for row in zip(*(saliency(x, row) for row in t.reshape(-1, x.shape[1])), strict=True)]
    ranking = ranking_of(worth)
    n = len(worth)
    if q is not None:
        tau = quantile(gram, q)
    elif tau == "mean":
        pairs = [gram[i][j] for i in range(n) for j in range(i + 1, n)]
        tau = k / 32 * sum(pairs) / len(pairs) if pairs else 1.0
    elif tau == "exact":
        tau = bisect(gram, ranking, k, given, -1.0)
    assert isinstance(tau, float)
    taken = nms(gram, ranking, tau, k, given)
    own = len(taken)
    if own < k and fallback == "relax":
        taken = nms(gram, ranking, bisect(gram, ranking, k, given, min(tau, 1.0)), k, given)
    while len(taken) < k and fallback in ("saliency", "least_redundant"):
        rest = [i for i in ranking if i not in taken]
        if fallback == "least_redundant":
            worst = [max(gram[s][i] for s in taken) for i in rest]
            rest = [i for i, value in zip(rest, worst, strict=True) if value <= min(worst) + SLACK]
        taken.append(rest[0])
    return taken, own


def log_barrier(x: Tensor, worth: list[float], k: int, a: float, given: list[int]) -> tuple[list[int], list[float]]:
    """The rule of the log barrier: order, and each row's value a w_i + log(1 - cosine) when it was taken."""
    units = torch.stack([unit(row) for row in x])
    gram = (units @ units.T).clamp(-1, 1).tolist()
    order = given[:1] or [min(i for i, w in enumerate(worth) if w >= max(worth) - SLACK)]
    gains = [a * worth[order[0]]]
    while len(order) < k:
        keys, doubt = dict[int, float](), dict[int, float]()
        for i in range(len(worth)):
            if i not in order:
                distance = 1 - max(gram[i][s] for s in order)
                keys[i] = a * worth[i] + math.log(max(distance, SLACK))
                doubt[i] = SLACK / 2 * (a + (1 / distance if distance > SLACK else 1))
        least = max(keys[i] - doubt[i] for i in keys)
        best = min(i for i in keys if keys[i] + doubt[i] >= least)
        order.append(given[len(order)] if len(order) < len(given) else best)
        gains.append(keys[order[-1]])
    return order, gains
