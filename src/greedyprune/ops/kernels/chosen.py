"""Who runs the scan of an engine: a Triton kernel, one launch for all picks, or torch, some ten launches per pick.

A kernel runs if the rows lie on a CUDA device, triton can be imported, and the cosines of all pairs are there (n <= d)
of no more than `MOST` rows. Before its first scan on a device it has to decide a small case as torch does, for which
the host waits once in a process. If it does not, a `PruneWarning` says why, and torch scans.
"""

from __future__ import annotations

import functools
import warnings
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from greedyprune.ops.cosine import unit64
from greedyprune.ops.kernels import loops
from greedyprune.ops.kernels.loops import Barrier, Linear, Rule
from greedyprune.ops.kernels.pairs import Pairs
from greedyprune.selection import PruneWarning

KINDS = frozenset({"cuda"})
"""The types of devices that run kernels. Empty it, and torch scans everywhere."""
MOST = 8192
"""The largest number of rows of an image: the states of more do not fit the registers of a program."""


def falling(pairs: Pairs, first: Tensor, k: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """`loops.falling`, by a kernel where one runs."""
    return (kernels(pairs) or loops).falling(pairs, first, k, rule)


def suppressing(
    pairs: Pairs, rank: Tensor, given: Tensor, bound: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`loops.suppressing`, by a kernel where one runs."""
    return (kernels(pairs) or loops).suppressing(pairs, rank, given, bound, k)


def kernels(pairs: Pairs) -> ModuleType | None:
    """The kernels, if they can scan these pairs."""
    device, n = pairs.units.device, pairs.units.shape[1]
    if device.type not in KINDS or pairs.whole is None or n > MOST or not installed():
        return None
    if device not in _PROVEN:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return None  # a graph that is being captured must not wait
        _PROVEN[device] = _proven(device)
    return _PROVEN[device]


@functools.cache
def installed() -> bool:
    """True if triton can be imported."""
    return find_spec("triton") is not None


_PROVEN: dict[torch.device, ModuleType | None] = {}
"""The kernels by device, None if they failed there."""


def _proven(device: torch.device) -> ModuleType | None:
    """The kernels, if they decide a small case as torch does on this device."""
    try:
        from greedyprune.ops.kernels.triton import scans

        wrong = [name for name, ours, theirs in _both(scans, device) if not _alike(ours, theirs)]
        why = f"its {' and '.join(wrong)} differ from torch's" if wrong else ""
    except Exception as error:  # no compiler, a driver that is too old, ...
        scans, why = None, f"{type(error).__name__}: {error}"
    if not why:
        return scans
    warnings.warn(
        f"Triton cannot be used on {device}, so torch selects there, as exactly but more slowly: {why}",
        PruneWarning,
        stacklevel=2,
    )
    return None


def _both(scans: ModuleType, device: torch.device) -> list[tuple[str, tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """The results of kernels and loops on two images with duplicates, a zero row, and tied worth."""
    place = torch.arange(2 * 40 * 48, dtype=torch.float64, device=device)
    rows = (place * place % 89).view(2, 40, 48) - 44
    rows[:, 20:30] = rows[:, 5:15]
    rows[:, 33] = 0
    pairs, worth = Pairs(unit64(rows)), (place[:80] * 7 % 10).view(2, 40) / 10
    first = place[:6].long().view(2, 3)
    rank = worth.argsort(dim=1, descending=True, stable=True).argsort(1)
    bound = worth.new_full((1, 1), 0.3)
    found: list[tuple[str, tuple[Tensor, ...], tuple[Tensor, ...]]] = []
    for name, rule in (("linear keys", Linear(worth, 0.5)), ("barrier's keys", Barrier(8 * worth, 8.0))):
        found.append((name, *(each.falling(pairs, first, 24, rule) for each in (scans, loops))))
    found.append(("suppression", *(each.suppressing(pairs, rank, first[:, :2], bound, 30) for each in (scans, loops))))
    return found


def _alike(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    """Equal decisions, and values up to rounding."""
    return all(torch.allclose(a.double(), b.double(), rtol=0, atol=1e-9) for a, b in zip(ours, theirs, strict=True))
