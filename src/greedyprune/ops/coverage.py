"""Greedy maximum coverage (facility location): take what best covers the rows that what is taken covers least.

F(S) = sum_r w_r max_{j in S} B_rj for benefits B that are a given matrix or (exponentials of) cosines of the candidates
themselves. F is submodular, so a gain computed earlier bounds a later one from above and is computed again only where
it could be the largest (lazy greedy). Gains are sums over all rows, where the errors of float32 add up: everything here
is float64.
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
"""Up to this many rows the matrix of their cosines is held, 128 MB; above, its columns are computed when looked at."""
BLOCK = 512
"""How many rows of that matrix are computed at once."""
BATCH = 32
"""How many gains are computed at once."""


class Benefits(ABC):
    """What each of n candidates gives to each of r rows, and the rows' weights. On the CPU."""

    weights: Tensor
    """(r,) float64"""
    n: int
    device: torch.device
    """Where the candidates are, and what is found goes."""

    @abstractmethod
    def columns(self, some: Tensor) -> Tensor:
        """What some candidates give to all rows, a tensor of its own. (b,) -> (b, r)"""


class Given(Benefits):
    """A matrix of benefits, of r rows by n candidates."""

    def __init__(self, matrix: Tensor, weights: Tensor | None = None) -> None:
        self.n, self.device = matrix.shape[1], matrix.device
        self._by_candidate = matrix.double().cpu().T.contiguous()
        self.weights = _weights(weights, matrix.shape[0])

    def columns(self, some: Tensor) -> Tensor:
        """(b,) -> (b, r)"""
        return self._by_candidate[some]


class Alike(Benefits):
    """Candidates that cover each other as far as they are alike: by cosine, or by softmax over candidates of it. (n, d)

    With a temperature T the benefits are exp((cos_rj - 1) / T), and the weight of row r is divided by the sum of its
    benefits: together the softmax of its cosines, as long as m_r starts at 0.
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
        """All columns; what lies below the diagonal is what lies above it. -> (n, n)"""
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
    """k candidates, each the one with the largest gain_j = c_j sum_r w_r max(0, B_rj - m_r), m_r the best r has yet.

    Rows of all `parts` count together; m_r starts at `floor`; c is `factor` (n,), 1 by default. `given` candidates are
    taken beforehand, in their order. Gains that differ by less than `SLACK` of the largest first gain tie, and ties go
    to the lowest candidate, so that what adds nothing comes last and in order.
    Cost: of cosines O(n^2 d) once; then O(r) for each gain computed, a few per cent of n k of them. Memory O(n d), and
    n^2 up to `GRAM_LIMIT` candidates; above, each gain of cosines costs O(n d): minutes for 20,000 rows.
    """
    search = _Search(parts, k, factor, floor)
    for row in numbers(given):
        search.take(row, float(search.gain(torch.tensor([row], device="cpu"))[0]))
    while len(search.taken) < k:
        search.take(*search.best())
    return Picks.of(search.taken, search.gains, parts[0].device)


class _Search:
    """Bounds of all gains, and which of them are up to date."""

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
        """What some candidates would add now. (b,) -> (b,)"""
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
        """Take a candidate: every row has it to look at from now on."""
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
