"""Time and memory of a selection against the number of tokens, at a constant share kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from greedyprune.bench.clock import in_turn, threads_set
from greedyprune.bench.features import image_like
from greedyprune.bench.peak import peak_of
from greedyprune.choosing import select
from greedyprune.cues import Cues
from greedyprune.registry import DEFAULT

METHODS = (DEFAULT, "greedyprune", "divprune", "saliency")
"""The default, the paper's rule, diversity alone and saliency alone."""
SIZES = (576, 1152, 2304, 4608, 10000, 20160)
QUICK = SIZES[:3]
SHARE = 9
"""One token of so many is kept."""
RUNS = 3


@dataclass(frozen=True)
class Row:
    """One measured selection."""

    method: str
    tokens: int
    kept: int
    width: int
    ms: float
    """Thread CPU time, median."""
    peak_bytes: int
    """The most bytes at a time, above the input."""
    peak_of_input: float
    """The same as a share of the input's bytes."""
    runs: int
    threads: int

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def measure(
    sizes: tuple[int, ...] = SIZES, width: int = 1024, runs: int = RUNS, threads: int = 1, seed: int = 0
) -> Iterator[Row]:
    """Measure every method at every size, in turn at one size. The thread count is put back at the end."""
    with threads_set(threads):
        for n in sizes:
            x, t = image_like(n, width, seed)
            cues, k = Cues(x, text=t[None], question=slice(0, 1)), n // SHARE
            works = [lambda name=name, cues=cues, k=k: select(name, cues, k) for name in METHODS]
            peaks = [peak_of(work, x.device)[1] for work in works]  # the first call of each is not counted
            for name, seconds, peak in zip(METHODS, in_turn(works, runs), peaks, strict=True):
                ms, share = round(1e3 * seconds, 3), round(peak / x.nbytes, 2)
                yield Row(name, n, k, width, ms, peak, share, runs, threads)
