"""Random cues for every method: each case gives a right decision, or is refused in words that name what is wrong.

    python tests/tools/fuzz.py --cases 10000 --seed 0
    python tests/tools/fuzz.py --only 4711

Case i is drawn from the number i alone, so that a failure is repeated by its number (`--seed` is the first number).
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import brute
import greedyprune as gp
from greedyprune.naming import as_method
from greedyprune.registry import METHODS
from greedyprune.saliencies import NEEDS

REFUSALS = (ValueError, TypeError, NotImplementedError)
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPARED: Counter[bool] = Counter()
"""How many decisions were compared with those of `brute.py`."""
NAMED = (
    "features", "text", "question", "grid", "tiles", "attention", "keys", "encoded", "relevance", "norm", "protect",
    "Keys(", "values", "Values(", "change", "Change(", "keep",
)  # fmt: skip
"""What a refusal may be about: its message has one of these words."""
BRUTE = 40
"""Up to so many rows GreedyPrune is compared with the plain loops of `brute.py`."""
Rows = Callable[[int, int, torch.Generator], Tensor]


def noise(n: int, d: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=g)


def changed(n: int, d: int, g: torch.Generator, row: int, value: float) -> Tensor:
    """Noise with one row set to a value, if there is one."""
    x = noise(n, d, g)
    x[row : row + 1] = value
    return x


def spoilt(n: int, d: int, g: torch.Generator, value: float) -> Tensor:
    """Noise with one number replaced."""
    x = noise(n, d, g)
    if n:
        x[int(torch.randint(n, (), generator=g)), int(torch.randint(d, (), generator=g))] = value
    return x


def drawn(n: int, g: torch.Generator) -> Tensor:
    """Row numbers, each about three times. -> (n,)"""
    return torch.randint(max(1, n // 3), (n,), generator=g)


def clustered(n: int, d: int, g: torch.Generator) -> Tensor:
    return noise(max(1, n // 3), d, g)[drawn(n, g)] + 0.05 * noise(n, d, g)


def antipodal(n: int, d: int, g: torch.Generator) -> Tensor:
    half = noise((n + 1) // 2, d, g)
    return torch.stack([half, -half], 1).flatten(0, 1)[:n]


def one_hot(n: int, d: int, g: torch.Generator) -> Tensor:
    return torch.nn.functional.one_hot(torch.randint(d, (n,), generator=g), d).float()


def strided(n: int, d: int, g: torch.Generator) -> Tensor:
    return noise(2 * n, 3 * d, g)[::2, ::3]


def inference(n: int, d: int, g: torch.Generator) -> Tensor:
    with torch.inference_mode():
        return noise(n, d, g)


LARGEST = "as large as the type holds"
"""The kind whose signs become numbers that large."""
KINDS: dict[str, Rows] = {
    "gaussian": noise,
    "clustered": clustered,
    "duplicates": lambda n, d, g: noise(max(1, n // 3), d, g)[drawn(n, g)],
    "scaled duplicates": lambda n, d, g: (
        noise(max(1, n // 3), d, g)[drawn(n, g)] * 2.0 ** torch.randint(-3, 4, (n, 1), generator=g)
    ),
    "all equal": lambda n, d, g: noise(1, d, g).repeat(n, 1),
    "zero rows": lambda n, d, g: torch.zeros(n, d),
    "one zero row": lambda n, d, g: changed(n, d, g, n // 2, 0.0),
    "integers": lambda n, d, g: noise(n, d, g).round(),
    "ties": lambda n, d, g: (noise(n, d, g) > 0).float(),
    "tiny": lambda n, d, g: noise(n, d, g) * 1e-30,
    "huge": lambda n, d, g: noise(n, d, g) * 1e30,
    "one huge row": lambda n, d, g: changed(n, d, g, n - 1 if n else 0, 6e4),
    "mixed scales": lambda n, d, g: noise(n, d, g) * 10.0 ** torch.randint(-30, 31, (n, 1), generator=g),
    "largest numbers": lambda n, d, g: noise(n, d, g).sign() * 3e38,
    "subnormal": lambda n, d, g: noise(n, d, g) * 1e-42,
    "orthogonal": lambda n, d, g: torch.eye(max(n, d))[:n, :d],
    "antipodal pairs": antipodal,
    "rank one": lambda n, d, g: noise(n, 1, g) * noise(1, d, g),
    "low rank": lambda n, d, g: noise(n, 2, g) @ noise(2, d, g),
    "constant offset": lambda n, d, g: noise(n, d, g) + 100 * noise(1, d, g),
    "nearly equal": lambda n, d, g: noise(1, d, g) + 1e-6 * noise(n, d, g),
    "one-hot": one_hot,
    "NaN in one row": lambda n, d, g: spoilt(n, d, g, math.nan),
    "infinity in one row": lambda n, d, g: spoilt(n, d, g, math.inf),
    "minus infinity in one row": lambda n, d, g: spoilt(n, d, g, -math.inf),
    "one token": lambda n, d, g: noise(1, d, g),
    "two tokens": lambda n, d, g: noise(2, d, g),
    "no tokens": lambda n, d, g: noise(0, d, g),
    "width one": lambda n, d, g: noise(n, 1, g),
    "wide": lambda n, d, g: noise(n, 97, g),
    "transposed": lambda n, d, g: noise(d, n, g).T,
    "strided": strided,
    "expanded": lambda n, d, g: noise(1, d, g).expand(n, d),
    "requires grad": lambda n, d, g: noise(n, d, g).requires_grad_(),
    "inference": inference,
    LARGEST: lambda n, d, g: noise(n, d, g).sign(),
}
"""How rows are drawn, (n, d); some kinds have an n or a d of their own."""


@dataclass(frozen=True)
class Case:
    """One call of `select`, and what it was drawn as."""

    number: int
    method: gp.Method
    kind: str
    make: Callable[[], gp.Cues]
    """Makes the cues, which may be refused already."""
    keep: Any
    framed: bool

    def __str__(self) -> str:
        return f"case {self.number}: {self.method!r}, rows {self.kind!r}, keep={self.keep!r}, framed={self.framed}"

    def select(self, cues: gp.Cues) -> gp.Keep:
        return gp.select(self.method, cues, self.keep)


def options(name: str, rng: random.Random) -> gp.Method:
    """A registered method with some of its knobs turned."""
    method = as_method(name)
    if rng.random() < 0.5:
        return method
    knobs: dict[str, list[Any]] = {
        "tau": [-1.0, 0.0, 0.5, 1.0, 2, gp.Quantile(0.0), gp.Quantile(1.0), gp.Quantile(0.37), gp.MeanScaled()],
        "fallback": ["saliency", "least_redundant", "relax", "none"],
        "preprocess": ["none", "center"],
        "text": ["last", "question_mean", "question_max", "chat_max"],
        "theta": [None, 0.0, 0.5, 0.998],
        "alpha": [0.0, 0.3, 0.5, 1.0],
        "gamma": [0, 1.0, 1e6],
        "weights": ["uniform", "saliency"],
        "weight": [0, 0.5, 8.0, 1e6],
        "saliency": list(NEEDS),
        "trade": [0.0, 0.3, 1.0],
        "core": [0.0, 0.5, 1.0],
        "adaptive": [True, False],
        "normalise": [True, False],
        "rest": [True, False],
        "neighbours": [1, 5, 1000],
        "adjacency": ["grid", "sequence"],
        "counted": ["crop", "sequence"],
        "ranking": ["released", "attention"],
        "exact_budget": [True, False],
        "ratio": [0.0, 0.5, 1.0],
        "drop": [1, 8, 1000],
        "per_group": [1, 4, 1000],
        "runs": [1, 16, 1000],
        "share": [0.0, 0.1, 1.0],
        "seed": [0, 1, 2**40],
        "steps": [0, 5],
        "temperature": [0.01, 0.2, 1e6],
        "threshold": [-1.0, 0.5, 1.0],
        "channels": [1e-9, 0.5, 1.0],
        "contextual": [0.0, 0.15, 0.99],
        "recycled": [0.0, 0.3, 1.0],
        "centre": [0.01, 0.5, math.inf],
        "radius": [0.5, 5.0, 40.0],
        "step": [0.0, 0.01, 5.0],
        "delta_max": [0.0, 0.5, 2.0],
        "erank_avg": [None, 0.01, 50.0],
        "spatial": [0.0, 0.5, 1.0],
        "cutoff": [None, 0.0, 0.2, 2.0],
        "reach": [0.1, 1.5, 10.0],
        "basis": [1, 10, 1000],
        "rows": ["tower", "tokens"],
        "spread": [0.01, 0.5, 100.0],
        "batch": [1, 16, 1000],
        "own": [0.0, 0.3, 1.0],
    }
    if name == "greedyprune":
        knobs["preprocess"].append("rmsnorm")
        knobs["tau"].append(gp.Exact())
    if name == "soft_greedyprune":
        knobs["preprocess"] = ["none", "channels"]
    if isinstance(getattr(method, "tau", None), float):  # a cosine
        knobs["tau"] = [-1.0, 0.0, 0.5, 1.0]
    if name == "dytok":
        knobs["weights"] = ["attention", "relevance"]
    if name == "vlm_pruner":
        knobs["channels"] = [1, 4, 256]
    if name == "dart":
        knobs["text"], knobs["visual"] = [0, 4, 100], [1, 4, 100]
    here = {key: rng.choice(values) for key, values in knobs.items() if hasattr(method, key) and rng.random() < 0.6}
    if here.get("saliency", getattr(method, "saliency", "cosine")) != "cosine":
        here.pop("text", None)  # which the cosine alone reads
    return replace(method, **here)


def grid_of(n: int, rng: random.Random) -> Any:
    """A grid that holds n tokens, or now and then none that does."""
    if rng.random() < 0.03:
        return rng.choice([(1, n, 2), (0, n, 1), (n,), "grid", (1.0, n, 1)])
    t = rng.choice([d for d in (1, 1, 1, 2, 3, 4) if n % d == 0] or [1])
    h = rng.choice([d for d in range(1, n + 1) if (n // t) % d == 0] or [1])
    return (t, h, n // t // h) if n else None


def attention_of(n: int, rng: random.Random, g: torch.Generator) -> Tensor:
    """What tokens may be given as attention, some of it no attention."""
    kinds = {"softmax": 6, "zeros": 1, "ties": 2, "one peak": 1, "huge": 1, "tiny": 1, "negative": 0.7, "NaN": 0.3}
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    look = torch.rand(n, generator=g)
    at = rng.randrange(n) if n else 0
    match kind:
        case "softmax":
            return torch.randn(n, generator=g).softmax(0)
        case "zeros":
            return torch.zeros(n)
        case "ties":
            return (look * 3).round() / 3
        case "one peak":
            return torch.nn.functional.one_hot(torch.tensor(at), n).float() if n else look
        case "huge":
            return look * 6e4
        case "tiny":
            return look * 1e-38
        case "negative":
            return look - 0.5
        case _:
            look[at : at + 1] = math.nan
            return look


def tiles_of(n: int, rng: random.Random, g: torch.Generator) -> gp.Tiles | None:
    """A whole view and crops."""
    if n < 6 or rng.random() < 0.7:
        return None
    whole, layout = rng.choice([(1, 1), (2, 2), (2, 3)]), rng.choice([(1, 1), (2, 2), (1, 3)])
    crop = torch.randint(layout[0] * layout[1], (n,), generator=g)
    crop[torch.randperm(n, generator=g)[: whole[0] * whole[1]]] = -1
    return gp.Tiles(crop, layout, whole)


NAMES = [*sorted(METHODS), *["greedyprune"] * 3]
"""Methods in their turns; GreedyPrune has several, since it is compared with `brute.py`."""


def draw(number: int) -> Case:
    """The case with this number. Methods and kinds take turns, so that some thousand cases pair all of them."""
    rng, g = random.Random(number), torch.Generator().manual_seed(number)
    name, kind = NAMES[number % len(NAMES)], list(KINDS)[number // len(NAMES) % len(KINDS)]
    n, d = rng.choice([1, 2, 3, 5, 8, 12, 24, 36, 60, 100]), rng.choice([1, 2, 3, 8, 16])
    method, dtype = options(name, rng), rng.choice(TYPES)
    base = KINDS[kind](n, d, g)
    x = cast(kind, base, dtype)
    n, d = x.shape
    other = dtype if rng.random() < 0.8 else rng.choice(TYPES)
    m = rng.choice([0, 1, 1, 2, 5, 9])
    words = noise(m, d, g) * rng.choice([1.0, 1.0, 1.0, 0.0, 1e-30, 1e30])
    if m and n and rng.random() < 0.2:
        words[-1] = base.detach()[rng.randrange(n)].float()
    if m and rng.random() < 0.03:
        words[rng.randrange(m)] = math.nan
    given: dict[str, Any] = {}

    def maybe(key: str, chance: float, value: Callable[[], Any]) -> None:
        if rng.random() < chance:
            given[key] = value()

    def alike(width: int) -> Tensor:
        """Other rows of the same tokens, of the same kind where it says nothing of the shape."""
        return cast(kind, (noise if kind in OWN else KINDS[kind])(n, width, g).detach(), other)

    heads = rng.choice([1, 2, 3])
    questions = [slice(0, m), slice(m // 2, m), slice(-1, None), slice(0, m, 2), None]
    if rng.random() < 0.04:
        questions = [slice(0, 0), slice(3, 99), (0, m)]
    maybe("text", 0.95, lambda: words.to(other))
    maybe("question", 0.7, lambda: rng.choice(questions))
    maybe("grid", 0.95, lambda: grid_of(n, rng))
    maybe("tiles", 0.9, lambda: tiles_of(n, rng, g))
    maybe("attention", 0.95, lambda: attention_of(n, rng, g).to(other))
    maybe("keys", 0.95, lambda: alike(heads * 4).reshape(n, heads, 4))
    maybe("encoded", 0.95, lambda: alike(6))
    maybe("relevance", 0.3, lambda: noise(n, 1, g)[:, 0].to(other))
    maybe("norm", 0.7, lambda: (torch.rand(d, generator=g) + 0.5).to(other))
    more: dict[gp.Need, Tensor] = {gp.Values(): alike(heads * 4).reshape(n, heads, 4), gp.Change(): alike(d)}
    if ("text" in given or rng.random() < 0.2) and rng.random() < 0.95:
        more[WORDS] = noise(m, heads * 4, g).reshape(m, heads, 4).to(other)
    maybe("more", 0.95, lambda: more)
    maybe("protect", 0.25, lambda: torch.randperm(n, generator=g)[: rng.choice([0, 1, 1, 3, n])].sort().values)
    keep: Any = rng.choice([*range(min(n, 6) + 1), n // 2, n - 1, n, n + 3, gp.Ratio(rng.random())])
    framed = rng.random() < 0.1 and not method.compares_frames
    if framed:
        keep = gp.PerFrame(max(keep, 0) if isinstance(keep, int) else keep)
    return Case(number, method, kind, lambda: gp.Cues(x, **given), keep, framed)


def cast(kind: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The same rows in a type, as they are where that is theirs already."""
    return x.to(dtype) * (0.9 * torch.finfo(dtype).max) if kind == LARGEST else x.to(dtype)


WORDS = gp.Keys("decoder", of="text")
OWN = ("one token", "two tokens", "no tokens", "width one", "wide")
"""Kinds with an n or a d of their own."""


def same(a: Tensor | None, b: Tensor | None) -> bool:
    return (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b))


def wrongs(case: Case, cues: gp.Cues, keep: gp.Keep) -> list[str]:
    """What is wrong with a decision."""
    rows, n, found = keep.rows.tolist(), cues.n, list[str]()
    frames = cues.grid[0] if case.framed and cues.grid is not None else 1
    budget = case.keep.tokens if case.framed else case.keep
    size = n // frames
    k = frames * min(budget.of(size) if isinstance(budget, gp.Ratio) else budget, size)
    if rows != sorted(set(rows)) or any(not 0 <= row < n for row in rows):
        found.append(f"rows {rows} are not distinct, ascending and in range")
    if sorted(keep.order.tolist()) != rows:
        found.append("order has other rows")
    if len(rows) > k or (case.method.exact and len(rows) != k):
        found.append(f"{len(rows)} rows where {k} were asked for")
    if keep.n != n or not bool(keep.gains.isfinite().all()) or keep.gains.shape != (len(rows),):
        found.append(f"n is {keep.n}, gains are {keep.gains}")
    if keep.weights is not None and not (keep.weights.shape == (len(rows), n) and bool(keep.weights.isfinite().all())):
        found.append("weights are not finite")
    if cues.protect is not None and k and not set(cues.protect.tolist()) <= set(rows):
        found.append(f"protected tokens {cues.protect.tolist()} are not all among {rows}")
    if keep.rows.device != cues.features.device or keep.gains.requires_grad:
        found.append("it lies elsewhere, or has a gradient")
    again = case.select(cues)
    for part in ("rows", "order", "gains", "before_fallback", "suppressed_by", "weights"):
        if not same(getattr(keep, part), getattr(again, part)):
            found.append(f"{part} differ when run again")
    book = by_the_book(case, cues, keep)
    COMPARED.update([book is not None])
    return found + (book or [])


def by_the_book(case: Case, cues: gp.Cues, keep: gp.Keep) -> list[str] | None:
    """Where the plain loops of GreedyPrune in float64 take other rows; None where they say nothing of the case."""
    method = case.method
    if not isinstance(method, gp.GreedyPrune) or case.framed or not 0 < keep.k < cues.n <= BRUTE or cues.text is None:
        return None
    if method.saliency != "cosine":
        return None
    large = case.kind in (LARGEST, "largest numbers") and method.preprocess != "none"
    if large or torch.float64 in (cues.features.dtype, cues.text.dtype):
        return None  # the loops prepare rows in float32
    norm = torch.ones(cues.features.shape[1]) if cues.norm is None else cues.norm.float()
    x, text = cues.features.detach().float(), cues.text.float()
    if method.text != "last" and cues.question is not None:
        text = text[cues.question]
    rows, words = brute.prepare(x, text, method.preprocess, norm, method.text, 0)
    tau, q = method.tau, None
    if isinstance(tau, gp.Quantile):
        tau, q = 0.5, tau.q
    elif not isinstance(tau, (int, float)):
        tau = "mean" if isinstance(tau, gp.MeanScaled) else "exact"
    given = [] if cues.protect is None else cues.protect.tolist()
    k = min(case.keep.of(cues.n) if isinstance(case.keep, gp.Ratio) else case.keep, cues.n)
    book = brute.greedy(rows, words, k, tau if isinstance(tau, str) else float(tau), q, method.fallback, given)
    found = keep.order.tolist(), int(keep.before_fallback)
    return [] if book == found else [f"took {found}, by the book it is {book}"]


def run(case: Case) -> tuple[str, str]:
    """One case. -> "right", "refused" or "failed", and why"""
    try:
        cues = case.make()
        keep = case.select(cues)
    except REFUSALS as error:
        named = any(word in str(error) for word in NAMED)
        return ("refused", str(error)) if named else ("failed", f"an error that names nothing: {error!r}")
    except Exception as error:
        return "failed", f"raw {type(error).__name__}: {error}"
    try:
        problems = wrongs(case, cues, keep)
    except Exception as error:
        return "failed", f"run again: {type(error).__name__}: {error}"
    return ("failed", "; ".join(problems)) if problems else ("right", "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12000, help="how many cases are run")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first case")
    parser.add_argument("--only", type=int, help="run the one case with this number, and show it")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    numbers = range(asked.seed, asked.seed + asked.cases) if asked.only is None else [asked.only]
    outcomes: Counter[str] = Counter()
    begun = time.perf_counter()
    for number in numbers:
        case = draw(number)
        outcome, why = run(case)
        outcomes[outcome] += 1
        if outcome == "failed" or asked.only is not None:
            again = f"python tests/tools/fuzz.py --only {number}"
            print(f"{outcome}: {case}\n    {why}\n    repeat it: {again}", flush=True)
    counts = ", ".join(f"{outcomes[each]} {each}" for each in ("right", "refused", "failed"))
    seconds = time.perf_counter() - begun
    print(f"{len(numbers)} cases of {len(METHODS)} methods and {len(KINDS)} kinds of rows: {counts}, {seconds:.0f} s")
    print(f"{COMPARED[True]} decisions of GreedyPrune were compared with plain loops in float64")
    return 1 if outcomes["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
