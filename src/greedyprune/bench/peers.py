"""Time of the engines of DivPrune and CDPruner, against their published formulations.

Both get the same rows and budget and must return the same set; they run in turn, and thread CPU time is compared, which
other work on the machine moves least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from greedyprune.bench.clock import in_turn, threads_set
from greedyprune.bench.features import image_like
from greedyprune.choosing import select
from greedyprune.cues import Cues
from greedyprune.methods.cdpruner import CDPruner
from greedyprune.methods.divprune import DivPrune
from greedyprune.ops.relevance import cosines_with, from_0_to_1

SIZES = ((576, 64, 1024), (576, 192, 1024), (576, 64, 4096), (576, 192, 4096), (2880, 320, 1024), (2880, 320, 4096))
RUNS = 7


@dataclass(frozen=True)
class Row:
    """One measured case."""

    method: str
    tokens: int
    kept: int
    width: int
    published_ms: float
    greedyprune_ms: float
    ratio: float
    """published / greedyprune, medians of thread CPU time."""
    equal: bool
    """True if both returned the same set. The published formulation decides in float32, so near ties can differ."""
    exact: bool
    """True if ours is the set of the published formulation in float64."""
    runs: int
    threads: int

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def max_min(x: Tensor, k: int) -> list[int]:
    """DivPrune as published: all distances once, then at every step the minimum over all rows taken. (n, d) -> rows"""
    x = torch.nn.functional.normalize(x, dim=-1)
    distance = 1 - x @ x.T
    taken = [int(distance.topk(2, dim=0, largest=False).values[1].argmax())]
    while len(taken) < k:
        nearest = distance[taken].amin(0)
        nearest[taken] = -torch.inf
        taken.append(int(nearest.argmax()))
    return taken


def determinant(x: Tensor, quality: Tensor, k: int) -> list[int]:
    """CDPruner as published: the whole kernel, then at every step a row of its factor from all before. -> rows"""
    x = torch.nn.functional.normalize(x, dim=-1)
    kernel = quality[:, None] * (x @ x.T) * quality
    factor, left = kernel.new_zeros(k, x.shape[0]), kernel.diagonal().clone()
    taken: list[int] = []
    for step in range(k):
        best = int(left.argmax())
        row = (kernel[best] - factor[:step, best] @ factor[:step]) / left[best].sqrt()
        factor[step] = row
        left -= row.square()
        left[best] = -torch.inf
        taken.append(best)
    return taken


def measure(
    sizes: tuple[tuple[int, int, int], ...] = SIZES, runs: int = RUNS, threads: int = 1, seed: int = 0
) -> Iterator[Row]:
    """Measure both methods at every size. The thread count is put back at the end."""
    with threads_set(threads):
        for n, k, d in sizes:
            x, t = image_like(n, d, seed)
            relevance = from_0_to_1(cosines_with(x, t[None])[:, 0]).float()
            cues = Cues(x, text=t[None], relevance=relevance)
            peers: dict[str, tuple[Callable[[Tensor], list[int]], DivPrune | CDPruner]] = {
                "divprune": (lambda rows, k=k: max_min(rows, k), DivPrune()),
                "cdpruner": (lambda rows, k=k, r=relevance: determinant(rows, r.to(rows.dtype), k), CDPruner()),
            }
            for name, (published, method) in peers.items():
                yield _case(name, published, method, cues, k, runs, threads)


def _case(
    name: str,
    published: Callable[[Tensor], list[int]],
    method: DivPrune | CDPruner,
    cues: Cues,
    k: int,
    runs: int,
    threads: int,
) -> Row:
    x = cues.features
    found = set(select(method, cues, k).rows.tolist())  # the first call of each is not counted
    equal = found == set(published(x))
    a, b = in_turn((lambda: published(x), lambda: select(method, cues, k)), runs)
    return Row(
        method=name,
        tokens=cues.n,
        kept=k,
        width=x.shape[1],
        published_ms=round(1e3 * a, 3),
        greedyprune_ms=round(1e3 * b, 3),
        ratio=round(a / b, 2),
        equal=equal,
        exact=found == set(published(x.double())),
        runs=runs,
        threads=threads,
    )
