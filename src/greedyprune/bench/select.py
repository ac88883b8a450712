"""Time of a selection, against the loop that research code usually writes for it.

Both get the same rows, text row, threshold and budget and must return the same tokens in the same order; they run in
turn, and thread CPU time is compared, which other work on the machine moves least. GreedyPrune runs at a constant
threshold and at its own, which the loop is given for free. The default method runs against the plain loop of its rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from greedyprune.bench.clock import in_turn, threads_set
from greedyprune.bench.features import image_like
from greedyprune.bench.peak import peak_of
from greedyprune.choosing import select
from greedyprune.cues import Cues
from greedyprune.keep import Certificate, Keep
from greedyprune.methods.greedyprune import GreedyPrune
from greedyprune.methods.soft_greedyprune import SoftGreedyPrune
from greedyprune.ops.cosine import saliency
from greedyprune.ops.suppression import suppress
from greedyprune.plain import to_plain

SIZES = ((576, 64, 1024), (576, 192, 1024), (576, 64, 4096), (576, 192, 4096), (2880, 320, 1024), (2880, 320, 4096))
LARGE = ((10000, 1000, 1024), (10000, 1000, 4096))
"""Sizes of long videos. The baseline alone takes minutes there."""
ALONE = ((10000, 1000, 4096),)
"""Sizes at which the defaults run without the loop, for their memory."""
REGIMES = ("loose", "bind", "refill")
OWN = "own"
"""The regime of a method that is left as it is."""
RUNS = 7


@dataclass(frozen=True)
class Row:
    """One measured case."""

    method: str
    tokens: int
    kept: int
    width: int
    regime: str
    """loose: few tokens are passed over; bind: 60 % of all are looked at; refill: the rule finds 60 % of the budget;
    own: the method as it is, with a threshold of its own or none."""
    tau: float | None
    visited: int
    """Tokens looked at until the budget was reached; all of them for a rule without a threshold."""
    usual_ms: float | None
    """The loop; None if it did not run."""
    greedyprune_ms: float
    ratio: float | None
    """usual / greedyprune, medians of thread CPU time."""
    floor_ms: float | None
    """Norms, one product with the text, and the rows looked at gathered once and multiplied once with those taken: no
    suppression can do less. For constant thresholds."""
    of_floor: float | None
    """greedyprune / floor."""
    peak_bytes: int
    """The most bytes at a time during the selection, above its input."""
    peak_of_input: float
    """The same as a share of the input's bytes."""
    equal: bool | None
    """True if both returned the same tokens in the same order.

    Near tau they may differ: the loop decides in float32.
    """
    exact: bool | None
    """True if ours are the tokens of the same loop in float64."""
    runs: int
    threads: int

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def usual_loop(x: Tensor, t: Tensor, tau: float, k: int) -> list[int]:
    """The baseline: the whole matrix of cosines, then one host synchronisation per kept token. (n, d), (d,) -> rows"""
    x = torch.nn.functional.normalize(x, dim=-1)
    similarity = x @ x.T
    worth = x @ torch.nn.functional.normalize(t, dim=-1)
    active = torch.ones_like(worth, dtype=torch.bool)
    chosen: list[int] = []
    while len(chosen) < k and bool(active.any()):
        best = int(worth.masked_fill(~active, -torch.inf).argmax().item())
        chosen.append(best)
        active[best] = False
        active &= similarity[best] <= tau
    for i in worth.argsort(descending=True).tolist():
        if len(chosen) == k:
            break
        if i not in chosen:
            chosen.append(i)
    return chosen


def soft_loop(x: Tensor, t: Tensor, weight: float, k: int) -> list[int]:
    """The default rule written plainly: the whole matrix, then one synchronisation per token. (n, d), (d,) -> rows"""
    scale = x.square().mean(0).sqrt()
    x, t = torch.nn.functional.normalize(x / scale, dim=-1), torch.nn.functional.normalize(t / scale, dim=-1)
    mean = x.mean(0)
    worth = weight * torch.nn.functional.cosine_similarity(x - mean, (t - mean)[None])
    similarity = x @ x.T
    chosen = [int(worth.argmax().item())]
    nearest = similarity[chosen[0]].clone()
    while len(chosen) < k:
        value = worth + (1 - nearest).clamp_min(1e-12).log()
        value[chosen] = -torch.inf
        chosen.append(int(value.argmax().item()))
        nearest = torch.maximum(nearest, similarity[chosen[-1]])
    return chosen


def floor(x: Tensor, t: Tensor, looked_at: Tensor, taken: int) -> Tensor:
    """The least of any suppression: norms, saliencies, one gather, one product. (n, d), (d,), (v,) -> (v, m)"""
    torch.linalg.vector_norm(x, dim=1)
    torch.mv(x, t)
    rows = x[looked_at]
    return rows @ rows[:taken].T


def measure(
    sizes: tuple[tuple[int, int, int], ...] = SIZES,
    runs: int = RUNS,
    threads: int = 1,
    seed: int = 0,
    alone: tuple[tuple[int, int, int], ...] = (),
) -> Iterator[Row]:
    """Measure every size in every regime, and the defaults without the loop at the sizes in `alone`.

    The thread count is put back at the end.
    """
    with threads_set(threads):
        for n, k, d in sizes:
            x, t = image_like(n, d, seed)
            for case in _defaults(x, t, k):
                yield case.measured(runs, threads)
            for regime in REGIMES:
                yield _at_constant(x, t, k, regime).measured(runs, threads)
        for n, k, d in alone:
            x, t = image_like(n, d, seed)
            for case in _defaults(x, t, k):
                yield replace(case, loop=None).measured(1, threads)


@dataclass(frozen=True, eq=False)
class Compared:
    """A selection, and the loop that it is compared with."""

    method: GreedyPrune | SoftGreedyPrune
    cues: Cues
    k: int
    regime: str
    tau: float | None
    visited: int
    loop: Callable[[Tensor, Tensor], list[int]] | None
    """Rows and text row -> the rows that it takes."""
    floor: Callable[[], object] | None = None

    def select(self) -> Keep:
        """The selection."""
        return select(self.method, self.cues, self.k)

    def measured(self, runs: int, threads: int) -> Row:
        """Run everything in turn."""
        x, t = self.cues.features, _text(self.cues)
        keep, peak = peak_of(self.select, x.device)  # the first call of each is not counted
        found, works, loop = keep.order.tolist(), [self.select], self.loop
        equal = exact = None
        if loop is not None:
            equal = found == loop(x, t)
            exact = equal or found == loop(x.double(), t.double())
            works.append(lambda: loop(x, t))  # pyright: ignore[reportArgumentType]
        if self.floor is not None:
            works.append(self.floor)  # pyright: ignore[reportArgumentType]
        ours, *others = in_turn(works, runs)
        usual = others[0] if loop is not None else None
        least = others[-1] if self.floor is not None else None
        return Row(
            method=str(to_plain(self.method)["type"]),
            tokens=x.shape[0],
            kept=self.k,
            width=x.shape[1],
            regime=self.regime,
            tau=None if self.tau is None else round(self.tau, 6),
            visited=self.visited,
            usual_ms=None if usual is None else round(1e3 * usual, 3),
            greedyprune_ms=round(1e3 * ours, 3),
            ratio=None if usual is None else round(usual / ours, 2),
            floor_ms=None if least is None else round(1e3 * least, 3),
            of_floor=None if least is None else round(ours / least, 2),
            peak_bytes=peak,
            peak_of_input=round(peak / x.nbytes, 2),
            equal=equal,
            exact=exact,
            runs=runs,
            threads=threads,
        )


def _text(cues: Cues) -> Tensor:
    """The one text row. (d,)"""
    assert cues.text is not None
    return cues.text[0]


def _defaults(x: Tensor, t: Tensor, k: int) -> Iterator[Compared]:
    """The method that runs if none is named, and GreedyPrune with its own threshold."""
    cues = Cues(x, text=t[None], question=slice(0, 1))
    soft, hard = SoftGreedyPrune(), GreedyPrune()
    yield Compared(soft, cues, k, OWN, None, cues.n, lambda rows, text: soft_loop(rows, text, soft.weight, k))
    proof = select(hard, cues, k).certificate
    assert isinstance(proof, Certificate)
    tau = proof.tau
    visited, _ = _looked_at(x, saliency(x, t[None])[1], tau, k)
    yield Compared(hard, cues, k, OWN, tau, visited, lambda rows, text: usual_loop(rows, text, tau, k))


def _at_constant(x: Tensor, t: Tensor, k: int, regime: str) -> Compared:
    """GreedyPrune at the constant threshold of a regime."""
    tau, visited = threshold_of(x, t, k, regime)
    _, order = saliency(x, t[None])
    _, taken = _looked_at(x, order, tau, k)
    return Compared(
        *(GreedyPrune(tau=tau), Cues(x, text=t[None]), k, regime, tau, visited),
        loop=lambda rows, text: usual_loop(rows, text, tau, k),
        floor=lambda: floor(x, t, order[:visited], taken),
    )


def _looked_at(x: Tensor, order: Tensor, tau: float, k: int) -> tuple[int, int]:
    """The numbers of tokens that a threshold looks at and takes."""
    taken = suppress(x, order, tau, k).order
    count = taken.shape[0]
    return x.shape[0] if count < k else int((order == taken[-1]).nonzero()[0, 0]) + 1, count


def threshold_of(x: Tensor, t: Tensor, k: int, regime: str) -> tuple[float, int]:
    """Find the threshold for a regime by bisection. -> threshold, tokens looked at"""
    n = x.shape[0]
    _, order = saliency(x, t[None])
    low, high = -1.0, 1.0
    for _ in range(16):
        tau = (low + high) / 2
        visited, taken = _looked_at(x, order, tau, k)
        enough = {"loose": visited <= 1.25 * k, "bind": visited <= 0.6 * n, "refill": taken >= 0.6 * k}[regime]
        low, high = (low, tau) if enough else (tau, high)
    return high, _looked_at(x, order, high, k)[0]
