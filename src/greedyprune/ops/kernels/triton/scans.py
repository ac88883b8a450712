# pyright: basic, reportMissingImports=false, reportIndexIssue=false
# A kernel is a program in the language of triton, which Python's types do not describe, and triton need not be there.
"""The scans of the engines as one kernel each: a program per image makes all picks, and nothing is launched between.

A scan reads float64 cosines of all pairs, one row of them per pick, and keeps the state of all rows in registers.
Rules, ties and error bounds are those of `ops/kernels/loops.py`, in float64 and with no product fused into a sum, so
decisions are the same. A logarithm may differ from torch's in its last bit, far below its error bound.

Numbers of a rule are tensors: triton would round a number of the host to float32.
Cost: k steps, each with a read of n cosines and one or two reductions over n. Memory: none but the results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from greedyprune.ops.cosine import SLACK
from greedyprune.ops.kernels.loops import Barrier

if TYPE_CHECKING:
    from greedyprune.ops.kernels.loops import Rule
    from greedyprune.ops.kernels.pairs import Pairs

PER_WARP = 256
"""Rows of an image that a warp holds, so that their states fit its registers."""


def falling(pairs: Pairs, first: Tensor, k: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """`loops.falling` of pairs that are known as a whole."""
    cosines = _whole(pairs)
    b, n = cosines.shape[:2]
    order, keys = first.new_empty(b, k), cosines.new_empty(b, k - 1)
    numbers = [cosines.new_full((1,), number) for number in (SLACK, rule.factor)]
    with torch.cuda.device_of(cosines):
        falling_kernel[(b,)](
            *(cosines, rule.worth.contiguous(), first.contiguous(), *numbers, order, keys, n, k, first.shape[1]),
            BARRIER=isinstance(rule, Barrier),
            **_size(n),
        )
    return order, keys


def suppressing(
    pairs: Pairs, rank: Tensor, given: Tensor, bound: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`loops.suppressing` of pairs that are known as a whole."""
    cosines = _whole(pairs)
    b, n = cosines.shape[:2]
    state, bound = rank.scatter(1, given, 3 * n), bound.expand(b, 1).contiguous()
    order, by, largest = rank.new_empty(b, k), torch.empty_like(rank), cosines.new_empty(b)
    own = torch.empty_like(order, dtype=torch.uint8)
    with torch.cuda.device_of(cosines):
        suppressing_kernel[(b,)](
            *(cosines, state, given.contiguous(), bound, order, own, by, largest, n, k, given.shape[1]), **_size(n)
        )
    return order, own.bool(), by, largest


def _whole(pairs: Pairs) -> Tensor:
    assert pairs.whole is not None, "a scan reads the cosines of all pairs"
    return pairs.whole.contiguous()


def _size(n: int) -> dict[str, Any]:
    """The length of a program's vectors, its warps, and no fused products."""
    size = triton.next_power_of_2(max(n, 2))
    return {"N": size, "num_warps": min(max(size // PER_WARP, 1), 16), "enable_fp_fusion": False}


@triton.jit(do_not_specialize=["k", "given"])
def falling_kernel(
    cosines, worth, first, slack, factor, order, keys, n, k, given, BARRIER: tl.constexpr, N: tl.constexpr
):  # fmt: skip
    """Make all picks of an image by keys that fall.

    Reads cosines (b, n, n), worth (b, n), first rows (b, given), and two numbers. Writes rows (b, k), keys (b, k - 1).
    """
    image = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, N)
    inside = rows < n
    slack, factor = tl.load(slack), tl.load(factor)
    own = tl.load(worth + image * n + rows, mask=inside, other=0.0)
    row = tl.load(first + image * given)
    tl.store(order + image * k, row)
    free = inside & (rows != row)
    largest = tl.load(cosines + (image * n + row) * n + rows, mask=inside, other=0.0)
    for step in range(1, k):
        if BARRIER:
            distance = tl.maximum(1 - largest, slack)
            key = own + tl.log(distance)
            error = tl.where(distance > slack, slack / 2 / distance, slack / 2) + slack / 2 * factor
        else:
            key = own - factor * largest
            error = slack / 2
        at_least = tl.max(tl.where(free, key - error, float("-inf")), 0)
        best = tl.min(tl.where(free & (key + error >= at_least), rows, N), 0)
        # If NaN leaves no best row, row 0 keeps the reads inside; the checks of the answer refuse it.
        best = tl.where(best < N, best, 0).to(tl.int64)
        named = step < given
        row = tl.where(named, tl.load(first + image * given + step, mask=named, other=0), best)
        tl.store(order + image * k + step, row)
        tl.store(keys + image * (k - 1) + step - 1, tl.sum(tl.where(rows == row, key, 0.0), 0))
        free = free & (rows != row)
        largest = tl.maximum(largest, tl.load(cosines + (image * n + row) * n + rows, mask=inside, other=0.0))


@triton.jit(do_not_specialize=["k", "given"])
def suppressing_kernel(
    cosines, state, given_rows, bound, order, own, by, largest, n, k, given, N: tl.constexpr
):  # fmt: skip
    """Make all picks of an image down its ranking.

    Reads cosines (b, n, n), states (b, n), given rows (b, given), bounds (b,). Writes rows (b, k), whether they are the
    rule's or given (b, k), the row that each was passed over for (b, n), the largest cosine of the rule's rows (b,).
    """
    image = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, N)
    inside = rows < n
    bound = tl.load(bound + image)
    # A row's state and number in one integer: one reduction finds the lowest state and its row.
    code = tl.load(state + image * n + rows, mask=inside, other=4 * n).to(tl.int32) * N + rows
    blocker = tl.full((N,), -1, tl.int64)
    closest = tl.load(cosines + rows, mask=rows < 0, other=-1.0)
    most = tl.max(closest, 0)
    for step in range(k):
        best = tl.min(code, 0)
        named = step < given
        row = tl.load(given_rows + image * given + step, mask=named, other=0)
        row = tl.where(named, row, (best % N).to(tl.int64))
        mine = named | (best // N < n)
        here = tl.load(cosines + (image * n + row) * n + rows, mask=inside, other=-1.0)
        code = tl.where(rows == row, 3 * n * N + rows, code)
        hit = (here > bound) & (code // N < n)
        blocker = tl.where(hit, row, blocker)
        code = tl.where(hit, code + n * N, code)
        nearest = tl.max(tl.where(rows == row, closest, -1.0), 0)
        most = tl.where(mine, tl.maximum(most, nearest), most)
        closest = tl.where(mine, tl.maximum(closest, here), closest)
        tl.store(order + image * k + step, row)
        tl.store(own + image * k + step, mine.to(tl.uint8))
    tl.store(by + image * n + rows, blocker, mask=inside)
    tl.store(largest + image, most)
