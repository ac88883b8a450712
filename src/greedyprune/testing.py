"""Testing: checks of the contract that every pruning method keeps. Run them on your own method.

    from greedyprune.testing import check_method

    def test_my_method():
        check_method("my_package.methods:MyMethod")     # or an instance, or the class

The checks run on small made-up cues, on the CPU, in about a second. A broken promise raises an error that names it.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch

from greedyprune.choosing import kept_count, select, select_batch
from greedyprune.cues import Attention, Change, Cues, Encoded, Keys, Seen
from greedyprune.naming import as_method
from greedyprune.plain import from_plain, to_plain
from greedyprune.selection import PruneWarning
from greedyprune.tiles import Tiles

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.keep import Keep
    from greedyprune.method import Method

N, D, M = 48, 8, 6
"""The number of tokens, their width, and the number of text rows of the made-up cues."""
EXAMPLES = 6
"""The number of made-up cues that a promise is checked on."""
SEARCHED = 60
"""The number of made-up cues that are searched for one whose change changes a selection."""
_GRIDS = ((1, 6, 8), (2, 4, 6), (1, 8, 6), (3, 4, 4))
_BUDGETS = (4, 9, 16, 31, N - 1, N)

MakeCues: TypeAlias = Callable[[int], Cues]


def check_method(method: Method | type[Method] | str | Mapping[str, Any], cues: MakeCues | None = None) -> None:
    """Raise AssertionError or ValueError, with the broken promise, if a pruning method breaks its contract.

        check_method("divprune")
        check_method(GreedyPrune(text="question_mean"))

    A method promises that:

    - it keeps exactly k distinct rows (at most k if `exact` is False), as many as `kept` says, on the cues' device;
    - it keeps protected tokens, unless it merges;
    - equal cues give equal selections, whatever the global generator holds, and the cues stay unchanged;
    - a batch gives the same selections as single images;
    - permuting the tokens permutes the selection, if it is `equivariant`;
    - `reads` names exactly the cues that change a selection; `counts` falls to k;
    - it pickles, hashes, and equals itself after the round trip through a plain dict;
    - cues with NaN are refused, or evenly spaced tokens stay if `on_error="even"`.

    `cues` makes the cues of one example from its number, if a method needs cues that `example_cues` does not make.
    """
    method = as_method(method)
    given = cues or partial(example_cues, method)
    for promise in (_values, _counts, _keeps, _repeats, _device, _protects, _batches, _permutes, _nan, _reads, _plain):
        promise(method, given)


def example_cues(method: Method, seed: int) -> Cues:
    """Make cues that hold all needs of this method and every optional cue. The seed decides all values.

    cues = example_cues(GreedyPrune(), seed=0)
    """
    g = torch.Generator("cpu").manual_seed(seed)
    more = {need: _made(need, g) for need in method.needs if isinstance(need, Seen)}
    return Cues(
        _noise(g, N, D),
        text=_noise(g, M, D),
        question=slice(1, 4),
        grid=_GRIDS[seed % len(_GRIDS)],
        tiles=_tiles(g) if seed % 3 == 2 else None,
        relevance=_noise(g, N).sigmoid() if seed % 2 else None,
        norm=_noise(g, D).exp(),
        more=cast("Any", more),
    )


def _made(need: Seen, g: torch.Generator) -> Tensor:
    """Made-up values of one cue."""
    if isinstance(need, Attention):
        return _noise(g, N).softmax(0)
    if isinstance(need, Encoded):
        return _noise(g, N, D - 2)
    if isinstance(need, Change):
        return _noise(g, N, D)
    return _noise(g, M if isinstance(need, Keys) and need.of == "text" else N, 2, 4)


def _noise(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, device="cpu")


def _tiles(g: torch.Generator) -> Tiles:
    """A whole view of 2 x 4 tokens, and four crops of unequal size."""
    crops = torch.randint(0, 4, (N - 8,), generator=g, device="cpu")
    return Tiles(torch.cat([crops.new_full((8,), -1), crops]), (2, 2), (2, 4))


def _hold(true: bool, method: Method, promise: str) -> None:
    if not true:
        raise AssertionError(f"{type(method).__name__} breaks a promise of pruning methods: {promise}.")


@contextmanager
def _promised(method: Method, promise: str) -> Generator[None]:
    """Turn any error inside the block into one that names the promise."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        _hold(False, method, f"{promise} ({type(error).__name__}: {error})")


def _examples(given: MakeCues, count: int = EXAMPLES) -> Iterator[tuple[Cues, int]]:
    """Cues, each with a budget."""
    for seed in range(count):
        cues = given(seed)
        yield cues, min(_BUDGETS[seed % len(_BUDGETS)], cues.n)


def _parts(keep: Keep) -> list[Any]:
    """All tensors of a decision, as values that can be compared."""
    values = (keep.rows, keep.order, keep.gains, keep.before_fallback, keep.weights)
    return [None if value is None else cast("Any", value).tolist() for value in values]


def _values(method: Method, given: MakeCues) -> None:
    """It is a value: it hashes and pickles, and what is read back is an equal method."""
    method.check_stage(method.at)
    with _promised(method, "it is a frozen value: equal methods hash alike"):
        _hold(hash(method) == hash(replace(method)), method, "equal methods hash alike")
    with _promised(method, "it pickles"):
        _hold(pickle.loads(pickle.dumps(method)) == method, method, "it pickles, and what is read back equals it")


def _plain(method: Method, given: MakeCues) -> None:
    """It has a plain form, and reading it back gives an equal method."""
    with _promised(method, "it has a plain form"):
        plain = to_plain(method)
        _hold(from_plain(plain) == method, method, f"from_plain() gives it back from to_plain(), which wrote {plain!r}")
    _hold(set(plain) == {"type", *(field.name for field in fields(method))}, method, "its plain form holds its fields")


def _counts(method: Method, given: MakeCues) -> None:
    """Each of several cuts leaves no more than the one before, and the last leaves k."""
    for n, k, cuts in ((N, 7, 3), (N, N, 2), (576, 64, 4), (5, 0, 3)):
        found = method.counts(k, n, cuts)
        falling = [min(n, before) >= after for before, after in zip([n, *found], found, strict=False)]
        right = len(found) == cuts and found[-1] == k and all(falling)
        _hold(right, method, f"counts(k={k}, n={n}, cuts={cuts}) falls from n to k, and it is {found}")


def _keeps(method: Method, given: MakeCues) -> None:
    """It keeps exactly k rows, or at most k, and as many as `kept` says. `select` checks the rows themselves."""
    for seed in range(EXAMPLES):
        cues = given(seed)
        for k in {0, *(min(budget, cues.n) for budget in _BUDGETS), cues.n + 3}:
            keep, said = select(method, cues, k), kept_count(method, k, cues.n, cues.grid)
            _hold(
                said == keep.k if said is not None else not method.exact,
                method,
                f"kept() says how many stay, and it says {said} where {keep.k} of {cues.n} stayed for k = {k}",
            )


def _repeats(method: Method, given: MakeCues) -> None:
    """The same cues give the same selection, and stay unchanged."""
    for seed, (cues, k) in enumerate(_examples(given)):
        state = torch.get_rng_state()
        before, first = given(seed), select(method, cues, k)
        _hold(bool((torch.get_rng_state() == state).all()), method, "it draws from no global generator")
        _hold(_parts(select(method, cues, k)) == _parts(first), method, "the same cues give the same selection")
        same = all(_equal(getattr(cues, field.name), getattr(before, field.name)) for field in fields(cues))
        _hold(same, method, "it leaves the cues as they were")


def _equal(one: object, other: object) -> bool:
    """True if two fields of cues hold equal values."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        both = cast("Mapping[Any, Tensor]", one), cast("Mapping[Any, Tensor]", other)
        return all(_equal(value, both[1][need]) for need, value in both[0].items())
    return isinstance(one, Tiles) or one == other


def _device(method: Method, given: MakeCues) -> None:
    """Its result lies on the device of the cues, even if torch's default device is another."""
    cues, k = next(_examples(given))
    promise = "it makes its tensors on the device of the cues, and not on torch's default device"
    with _promised(method, promise), torch.device("meta"):
        select(method, cues, k)


def _protects(method: Method, given: MakeCues) -> None:
    """Protected tokens stay. `select` refuses a selection without them."""
    if method.merges:
        return
    for seed, (cues, k) in enumerate(_examples(given)):
        rows = torch.randperm(cues.n, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[:k]
        for protect in (rows[:0], rows[:2], rows):
            guarded = replace(cues, protect=protect.sort().values)
            keep = select(method, guarded, k)
            whole = keep.k == k or not method.exact
            _hold(whole, method, f"it keeps k rows if {protect.numel()} tokens are protected")


def _batches(method: Method, given: MakeCues) -> None:
    """A batch of images gives the same selections as each image alone."""
    every = list(_examples(given))
    found = select_batch(method, [cues for cues, _ in every], [k for _, k in every])
    alone = [select(method, cues, k) for cues, k in every]
    same = [_parts(a) == _parts(b) for a, b in zip(found, alone, strict=True)]
    _hold(all(same), method, "select_batch() chooses for each image as select() does")


def _permutes(method: Method, given: MakeCues) -> None:
    """Permuting the tokens permutes the selection, if the method is equivariant."""
    if not method.equivariant:
        return
    for seed, (cues, k) in enumerate(_examples(given)):
        place = torch.randperm(cues.n, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        plain, k = replace(cues, tiles=None), min(k, cues.n - 1)
        moved = select(method, _moved(plain, place), k).order
        same = torch.equal(place[moved], select(method, plain, k).order)
        _hold(same, method, "permuting the tokens permutes the selection; if it cannot, let equivariant be False")


def _moved(cues: Cues, place: Tensor) -> Cues:
    """The cues of the same tokens in another order."""
    named = ("features", "attention", "keys", "encoded", "relevance")
    own = {name: value[place] for name in named if (value := getattr(cues, name)) is not None}
    more = {need: v if getattr(need, "of", "") == "text" else v[place] for need, v in cues.more.items()}
    return replace(cues, **own, more=more)


def _nan(method: Method, given: MakeCues) -> None:
    """Cues with NaN are refused by name, or evenly spaced tokens stay if `on_error="even"`."""
    cues, k = next(_examples(given))
    bad = cues.features.clone()
    bad[3, 0] = torch.nan
    broken = replace(cues, features=bad)
    try:
        select(method, broken, k)
    except ValueError as error:
        _hold("features holds NaN" in str(error), method, f"NaN in the tokens is refused by name, not with: {error}")
    else:
        _hold(False, method, "NaN in the tokens is refused")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PruneWarning)
        keep, said = select(method, broken, k, on_error="even"), kept_count(method, k, cues.n, cues.grid)
    _hold(keep.k == (k if said is None else said), method, 'on_error="even" keeps as many tokens as kept() says')


def _reads(method: Method, given: MakeCues) -> None:
    """A selection changes with a cue only if `reads` names it, and with each cue that it names."""
    reads, unseen = method.reads, set(method.reads)
    foreign = reads - set(_CHANGES)
    _hold(not foreign, method, f"reads names cues, {', '.join(_CHANGES)}, and not {', '.join(sorted(foreign))}")
    for seed, (cues, k) in enumerate(_examples(given, SEARCHED)):
        g = torch.Generator("cpu").manual_seed(1000 + seed)
        first: list[Any] | None = None
        for word, change in _CHANGES.items():
            named = next((each for each in (word, *_WITHIN.get(word, ())) if each in reads), None)
            if (named not in unseen) if named else (seed >= EXAMPLES or (word == "protect" and method.merges)):
                continue
            first = _parts(select(method, cues, k)) if first is None else first
            if _parts(select(method, change(cues, g), k)) == first:
                continue
            remedy = "put the cue in `needs` or, if the method can do without it, name it in `reads`"
            _hold(named is not None, method, f"reads names {word!r}, since changing it changed a selection: {remedy}")
            unseen.discard(cast("str", named))
        if not unseen and seed >= EXAMPLES:
            return
    _hold(not unseen, method, f"what reads names changes selections, and {', '.join(sorted(unseen))} never did")


def _text(cues: Cues, g: torch.Generator, rows: list[int]) -> Cues:
    """Other values in some text rows, if there are any."""
    if cues.text is None:
        return cues
    text = cues.text.clone()
    text[rows] = _noise(g, len(rows), text.shape[1])
    return replace(cues, text=text)


def _question(cues: Cues, g: torch.Generator) -> Cues:
    """Another question: other rows in its place, or other rows of the same text."""
    if cues.text is not None and int(torch.randint(0, 2, (), generator=g, device="cpu")):
        return replace(cues, question=slice(2, 5))
    return _text(cues, g, [1, 2, 3])


def _others(cues: Cues, g: torch.Generator, word: str) -> Cues:
    """Other values of every cue that a word of `reads` names."""
    more = {
        need: _made(need, g) if need.word == word and isinstance(need, Seen) else value
        for need, value in cues.more.items()
    }
    return replace(cues, more=more)


def _grid(cues: Cues, g: torch.Generator) -> Cues:
    """Another grid with the same number of tokens, if there is one."""
    if cues.grid is None or cues.n != N:
        return cues
    others = [grid for grid in _GRIDS if grid != cues.grid]
    return replace(cues, grid=others[int(torch.randint(0, len(others), (), generator=g, device="cpu"))])


def _protected(cues: Cues, g: torch.Generator) -> Cues:
    """Two protected tokens."""
    return replace(cues, protect=torch.randperm(cues.n, generator=g, device="cpu")[:2].sort().values)


_CHANGES: dict[str, Callable[[Cues, torch.Generator], Cues]] = {
    "tokens": lambda cues, g: replace(cues, features=_noise(g, *cues.features.shape)),
    "text": lambda cues, g: _text(cues, g, [0]),
    "question": _question,
    "chat": lambda cues, g: _text(cues, g, [M - 2]),
    "last_text": lambda cues, g: _text(cues, g, [M - 1]),
    "grid": _grid,
    "tiles": lambda cues, g: replace(cues, tiles=_tiles(g)) if cues.n == N else cues,
    "attention": lambda cues, g: _others(cues, g, "attention"),
    "keys": lambda cues, g: _others(cues, g, "keys"),
    "text_keys": lambda cues, g: _others(cues, g, "text_keys"),
    "values": lambda cues, g: _others(cues, g, "values"),
    "change": lambda cues, g: _others(cues, g, "change"),
    "encoded": lambda cues, g: _others(cues, g, "encoded"),
    "norm": lambda cues, g: replace(cues, norm=_noise(g, cues.features.shape[1]).exp()),
    "relevance": lambda cues, g: replace(cues, relevance=_noise(g, cues.n).sigmoid()),
    "protect": _protected,
}
"""A change of each cue that `reads` can name, and of nothing else."""
_WITHIN = {"question": ("chat", "text"), "last_text": ("chat", "text"), "chat": ("text",)}
