"""Greedy suppression in a fixed order: take a token, pass over every later one that is too similar to it, go on.

The engine is left-looking and blocked: each block of candidates is compared only with what is taken already and with
itself, so the work is about (tokens looked at) x k / 2 pairs instead of all n^2, and tokens behind the k-th one taken
are never read. Decisions are those of float64 (see `cosine.py`), so they do not depend on the block size, the thread
count or the batch an image came in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from greedyprune.ops.cosine import UnitRows, exceeds, product

WORD = 32


@dataclass(frozen=True, eq=False)
class Suppressed:
    """What the engine found."""

    order: Tensor
    """(m,) the rows taken, m <= k, in order."""
    by: Tensor
    """(n,) the row for which a row was passed over, -1 where none was or where the engine had stopped before it."""


def suppress(x: Tensor, order: Tensor, tau: float, k: int, *, block: int | None = None) -> Suppressed:
    """Walk through `order`, take each row whose cosine with every row taken is <= tau, stop at k. (n, d), (n,) -> ...

    Cost O(V k d) for V rows looked at; memory O(k d + block d). `block` changes the speed and nothing else.
    """
    n = order.shape[0]
    by = torch.full((n,), -1, dtype=torch.int64, device=x.device)
    if tau >= 1:  # no cosine is larger, so nothing can be passed over
        return Suppressed(order[:k], by)
    size = block or min(max(k // 2, 64), 256)
    unit = UnitRows(x)
    taken_units = torch.empty(min(k, n), x.shape[1], dtype=torch.float32, device=x.device)
    taken = torch.empty(min(k, n), dtype=torch.int64, device=x.device)
    m = 0
    for start in range(0, n, size):
        rows = order[start : start + size]
        units = unit[rows]
        if m:
            hits = exceeds(product(units, taken_units[:m]), tau, x, rows, taken[:m])
            blocked = hits.any(1)
            # The first hit in the order taken is the one that passes a row over.
            by[rows[blocked]] = taken[hits[blocked].to(torch.uint8).argmax(1)]
            rows, units = rows[~blocked], units[~blocked]
            if not rows.numel():
                continue
        picks, blockers = _resolve(exceeds(product(units, units), tau, x, rows, rows), k - m)
        passed = torch.tensor([i for i, b in enumerate(blockers) if b >= 0], dtype=torch.int64, device=x.device)
        if passed.numel():
            culprits = torch.tensor([b for b in blockers if b >= 0], dtype=torch.int64, device=x.device)
            by[rows[passed]] = rows[culprits]
        new = torch.tensor(picks, dtype=torch.int64, device=x.device)
        taken[m : m + len(picks)] = rows[new]
        taken_units[m : m + len(picks)] = units[new]
        m += len(picks)
        if m == k:
            break
    if m == k and k:
        # Rows behind the last one taken were never candidates, whatever the block size let the engine see of them.
        last = int((order == taken[k - 1]).nonzero()[0, 0])
        by[order[last + 1 :]] = -1
    return Suppressed(taken[:m], by)


def _resolve(above: Tensor, room: int) -> tuple[list[int], list[int]]:
    """Greedy inside one block: take the first row alive, pass over those it exceeds. (b, b) -> picks, blocker of each

    Rows of the matrix become Python integers, one bit per candidate: with a few hundred candidates this is far cheaper
    than one tensor operation per pick.
    """
    size = above.shape[0]
    conflicts = _bits(above)
    alive = (1 << size) - 1
    picks: list[int] = []
    blockers = [-1] * size
    while alive and len(picks) < room:
        i = (alive & -alive).bit_length() - 1
        picks.append(i)
        alive &= ~(1 << i)
        passed = alive & conflicts[i]
        alive &= ~passed
        while passed:
            j = (passed & -passed).bit_length() - 1
            blockers[j] = i
            passed &= passed - 1
    return picks, blockers


def _bits(rows: Tensor) -> list[int]:
    """Each boolean row as one integer, bit j for column j. (b, c) bool -> b integers"""
    count, width = rows.shape
    padded = torch.zeros(count, -(-width // WORD) * WORD, dtype=torch.int64, device=rows.device)
    padded[:, :width] = rows
    shifts = torch.arange(WORD, device=rows.device)
    words = (padded.view(count, -1, WORD) << shifts).sum(-1)
    listed = cast("list[list[int]]", words.tolist())  # pyright: ignore[reportUnknownMemberType]
    return [sum(word << (WORD * p) for p, word in enumerate(row)) for row in listed]
