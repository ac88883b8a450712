"""Greedy maximum coverage (facility location): take the candidate that adds most to the coverage of the rows.

F(S) = sum_r w_r max_{j in S} B_rj. The benefits B are a given matrix, or (exponentials of) cosines of the candidates.
F is submodular, so an earlier gain is an upper bound of a later one. A gain is recomputed only if it could be the
largest (lazy greedy). Gains are sums over all rows, in which float32 errors add up, so everything here is float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from greedyprune.ops.blocks import in_blocks
from greedyprune.ops.cosine import SLACK, unit64
from greedyprune.ops.picks import Picks, numbers

GRAM_LIMIT = 4096
"""Up to this number of rows the matrix of cosines is held, 128 MB. Above it, columns are computed when needed."""
BLOCK = 512
"""The number of rows of that matrix that are computed at once."""
BATCH = 32
"""The number of gains that are computed at once."""


class Benefits(ABC):
    """The benefit of each of n candidates for each of r rows, and the rows' weights. On the CPU."""

    weights: Tensor
    """(r,) float64, the weight of each row."""
    n: int
    device: torch.device
    """The device of the candidates and of the result."""

    @abstractmethod
    def columns(self, some: Tensor) -> Tensor:
        """The benefits of some candidates for all rows, in a new tensor. (b,) -> (b, r)"""


class Given(Benefits):
    """A given matrix of benefits, r rows by n candidates."""

    def __init__(self, matrix: Tensor, weights: Tensor | None = None) -> None:
        self.n, self.device = matrix.shape[1], matrix.device
        self._by_candidate = matrix.double().cpu().T.contiguous()
        self.weights = _weights(weights, matrix.shape[0])

    def columns(self, some: Tensor) -> Tensor:
        """(b,) -> (b, r)"""
        return self._by_candidate[some]


class Alike(Benefits):
    """Candidates that cover each other by their cosine, or by the softmax of cosines over candidates. (n, d)

    With a temperature T the benefits are exp((cos_rj - 1) / T), and the weight of row r is divided by the sum of its
    benefits. Together this is the softmax of its cosines, if m_r starts at 0.
    """

    def __init__(self, x: Tensor, weights: Tensor | None = None, temperature: float | None = None) -> None:
        self.n, self.device = x.shape[0], x.device
        self._units, self._temperature = unit64(x), temperature
        self.weights = _weights(weights, self.n)
        self._matrix = self._whole() if self.n <= GRAM_LIMIT else None
        if temperature is not None:
            total = torch.zeros(self.n, dtype=torch.float64, device="cpu")
            for some in in_blocks(torch.arange(self.n, device="cpu"), self.n):
                total += self.columns(some).sum(0)
            self.weights = self.weights / total.clamp_min(torch.finfo(torch.float64).tiny)

    def columns(self, some: Tensor) -> Tensor:
        """(b,) -> (b, r)"""
        if self._matrix is not None:
            return self._matrix[some]
        return self._of(self._units[some.to(self.device)] @ self._units.T)

    def _whole(self) -> Tensor:
        """All columns. The part below the diagonal is copied from above. -> (n, n)"""
        held = torch.empty(self.n, self.n, dtype=torch.float64, device="cpu")
        for start in range(0, self.n, BLOCK):
            end = start + BLOCK
            held[start:end, start:] = self._of(self._units[start:end] @ self._units[start:].T)
            held[end:, start:end] = held[start:end, end:].T
        return held

    def _of(self, cosines: Tensor) -> Tensor:
        cosines = cosines.clamp_(-1, 1).cpu()
        return cosines if self._temperature is None else cosines.sub_(1).div_(self._temperature).exp_()


def cover(
    parts: Sequence[Benefits], k: int, *, factor: Tensor | None = None, floor: float = 0.0, given: Tensor | None = None
) -> Picks:
    """Take k candidates, each with the largest gain_j = c_j sum_r w_r max(0, B_rj - m_r), m_r the best benefit so far.

    Rows of all `parts` count together. m_r starts at `floor`. c is `factor` (n,), 1 by default. `given` candidates are
    taken first, in their order. Gains that differ by less than `SLACK` of the largest first gain tie. Ties go to the
    lowest candidate, so candidates that add nothing come last and in order.
    Cost: O(n^2 d) once for cosines, then O(r) for each computed gain, a few per cent of n k. Memory O(n d), and n^2 up
    to `GRAM_LIMIT` candidates. Above it, each gain of cosines costs O(n d): minutes for 20,000 rows.
    """
    search = _Search(parts, k, factor, floor)
    for row in numbers(given):
        search.take(row, float(search.gain(torch.tensor([row], device="cpu"))[0]))
    while len(search.taken) < k:
        search.take(*search.best())
    return Picks.of(search.taken, search.gains, parts[0].device)


class _Search:
    """Upper bounds of all gains, and flags that say which bounds are current gains."""

    def __init__(self, parts: Sequence[Benefits], k: int, factor: Tensor | None, floor: float) -> None:
        n = parts[0].n
        self.parts, self.factor = parts, _weights(factor, n)
        self.reached = [torch.full_like(part.weights, floor) for part in parts]
        rows = sum(part.weights.shape[0] for part in parts)
        self.bounds = torch.cat([self.gain(some) for some in in_blocks(torch.arange(n, device="cpu"), rows)])
        self.fresh = torch.ones(n, dtype=torch.bool, device="cpu")
        self.slack = SLACK * float(self.bounds.max())
        self.taken: list[int] = []
        self.gains: list[float] = []

    def gain(self, some: Tensor) -> Tensor:
        """The current gains of some candidates. (b,) -> (b,)"""
        total = torch.zeros(some.shape[0], dtype=torch.float64, device="cpu")
        for part, reached in zip(self.parts, self.reached, strict=True):
            total += part.columns(some).sub_(reached).clamp_min_(0) @ part.weights
        return total * self.factor[some]

    def best(self) -> tuple[int, float]:
        """The free candidate with the largest gain, the first of those that tie, and its gain."""
        while True:
            top = self.bounds.topk(min(BATCH, self.bounds.shape[0])).indices
            if bool(self.fresh[top[0]]):
                top = (self.bounds >= self.bounds[top[0]] - self.slack).nonzero()[:, 0]
            stale = top[~self.fresh[top] & (self.bounds[top] > -torch.inf)]
            if not stale.numel():
                return int(top[0]), float(self.bounds[top[0]])
            for some in in_blocks(stale, sum(part.weights.shape[0] for part in self.parts)):
                self.bounds[some] = self.gain(some)
            self.fresh[stale] = True

    def take(self, row: int, gain: float) -> None:
        """Take a candidate, and raise the best benefit of every row that it covers better."""
        self.taken.append(row)
        self.gains.append(gain)
        for place, part in enumerate(self.parts):
            benefits = part.columns(torch.tensor([row], device="cpu"))[0]
            if bool((benefits > self.reached[place]).any()):
                self.reached[place] = torch.maximum(self.reached[place], benefits)
                self.fresh.fill_(False)
        self.bounds[row] = -torch.inf


def _weights(given: Tensor | None, count: int) -> Tensor:
    return torch.ones(count, dtype=torch.float64, device="cpu") if given is None else given.double().cpu()
