"""Lazy greedy for keys (scores) that only fall, with a small pool of rows at a time.

A row's key falls as rows are taken in farthest-first traversal, marginal relevance and determinantal processes. So an
old key is an upper bound.

1. Update all keys with one matrix product with the rows taken since the last update.
2. Move the rows with the highest keys into a pool.
3. Pick from the pool, and update only its keys, until a row outside could be better. Repeat.

The cost is k x n products at the speed of large ones; a whole matrix of cosines takes n x n. Memory never holds n x n.

A key is known up to an error. If several rows could be the best, float64 decides. So decisions are those of float64,
at any size of the pool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor

from greedyprune.ops.picks import Picks, numbers


class Falling(ABC):
    """n rows and their keys. The state of each row is on the CPU, so a pick waits for no device.

    After every update `joining` rows join the pool. A new pool starts before it would hold more than `most`.
    A pick looks at a few hundred numbers, and there torch's own cost per operation is most of the time. So picks use
    numpy's views of the same memory.
    """

    def __init__(self, n: int, device: torch.device, joining: int, most: int) -> None:
        self.device = device
        self.taken: list[int] = []
        self.gains: list[float] = []
        """The key of each taken row, just before it was taken."""
        self.alive = torch.ones(n, dtype=torch.bool, device="cpu")
        """(n,) True for rows that may still be taken. It changes in place only: `_take` has a view of it."""
        self._alive = self.alive.numpy()
        self._joining, self._most = joining, most
        self._rows: list[int] = []
        self._inside = torch.zeros(n, dtype=torch.bool, device="cpu")
        self._keys = torch.empty(0, device="cpu")

    @abstractmethod
    def update(self) -> tuple[Tensor, Tensor]:
        """All keys after the rows taken so far, and the error bound of each. -> (n,), (n,) or ()"""

    @abstractmethod
    def settle(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Some rows' float64 keys, -inf if a row must not be taken, and error bounds. (r,) -> (r,), (r,) or ()"""

    @abstractmethod
    def enter(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Add rows with these keys of `update` to the pool, and return their keys there. (r,), (r,) -> (r,)"""

    @abstractmethod
    def doubts(self, keys: Tensor) -> Tensor:
        """The error bound of each of the pool's keys. (p,) -> (p,) or ()"""

    @abstractmethod
    def leave(self) -> None:
        """Forget the pool. The next rows that enter start a new one."""

    @abstractmethod
    def follow(self, keys: Tensor, place: int) -> Tensor:
        """The pool's keys after its row at `place` is taken; the key at `place` is -inf from now on. (p,) -> (p,)"""

    def give(self, row: int) -> None:
        """Take a row, whatever its key is."""
        self._take(row, float(self.settle(torch.tensor([row], device="cpu"))[0]))

    def run(self, k: int) -> None:
        """Take the row with the highest key (the first of a tie), until k are taken or none is alive."""
        while len(self.taken) < k:
            keys, errors = self.update()
            if not bool(self.alive.any()):
                return
            if not self._rows or len(self._rows) + self._joining > self._most:
                self._rows, self._keys = [], keys[:0]
                self._inside.fill_(False)
                self.leave()
            highest = (keys + errors).masked_fill_(~self.alive, -torch.inf)
            at_least = (keys - errors).masked_fill_(~self.alive, -torch.inf).max()
            rows, outside = self.join(highest)
            before = len(self.taken)
            if outside < float(at_least):
                self._inside[rows] = True
                self._rows += numbers(rows)
                free = self.alive[rows]
                self._keys = torch.cat([self._keys, self.enter(rows, keys[rows]).masked_fill(~free, -torch.inf)])
                while len(self.taken) < k and self._pick(outside):
                    pass
            if len(self.taken) == before:  # more rows than the pool holds could be the best one
                self._rows = []
                self._take_best((highest >= at_least).nonzero()[:, 0])

    def join(self, highest: Tensor) -> tuple[Tensor, float]:
        """The rows that join the pool, and the highest key that a row left outside may have. (n,) -> (r,), key

        `highest`: what the keys are at most. The key of a row that may not be taken is -inf in the pool.
        """
        apart = highest.masked_fill(self._inside, -torch.inf)
        size = min(self._joining, int((self.alive & ~self._inside).sum()))
        values, rows = apart.topk(min(size + 1, apart.shape[0]))
        return rows[:size], float(values[-1]) if values.shape[0] > size else -torch.inf

    def picks(self) -> Picks:
        """The rows taken. Gains are keys."""
        return Picks.of(self.taken, self.gains, self.device)

    def _pick(self, outside: float) -> bool:
        """Take the best row of the pool, unless a row outside could be better. Keys outside are at most `outside`."""
        keys, errors = self._keys.numpy(), self.doubts(self._keys).expand_as(self._keys).numpy()
        best = keys.argmax()
        at_least = keys[best] - errors[best]
        if outside >= at_least:
            return False
        close = cast("list[int]", (keys + errors >= at_least).nonzero()[0].tolist())
        if len(close) > 1:
            row = self._take_best(torch.tensor([self._rows[i] for i in close], device="cpu"))
            if row is None:
                return False
            place = self._rows.index(row)
        else:
            place = close[0]
            self._take(self._rows[place], float(keys[place]))
        self._keys = self.follow(self._keys, place)
        return True

    def _take_best(self, rows: Tensor) -> int | None:
        """Compare some rows in float64 and take the best. None if none of them may be taken."""
        keys, errors = self.settle(rows)
        at_least = (keys - errors).max()
        if float(at_least) == -torch.inf:
            return None
        best = keys + errors >= at_least
        row, place = rows[best].min(0)
        self._take(int(row), float(keys[best][place]))
        return int(row)

    def _take(self, row: int, gain: float) -> None:
        self.taken.append(row)
        self.gains.append(gain)
        self._alive[row] = False
