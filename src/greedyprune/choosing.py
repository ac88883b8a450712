"""Choosing: run a method on plain tensors, without a model. Every check is made once, here."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import torch

from greedyprune.budget import PerFrame, Ratio, as_budget, count, parse_budgets
from greedyprune.checks import as_grid, is_count
from greedyprune.cues import Attention, Cues
from greedyprune.keep import Keep, protected_first, read_tests, require_rules, rules_of
from greedyprune.naming import as_method
from greedyprune.resident import resident
from greedyprune.selection import PruneWarning

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.method import Method


OnError: TypeAlias = Literal["raise", "even"]
"""The reaction if a selection fails on its data: an error, or evenly spaced tokens and a warning."""


def select(
    method: Method | type[Method] | str | Mapping[str, Any], cues: Cues, keep: object, *, on_error: OnError = "raise"
) -> Keep:
    """Choose the visual tokens of one image that stay, on plain tensors, without a model.

        keep = select("greedyprune", Cues(features, text=text), 64)
        features, positions = keep(features), keep(positions)

    - `method`: an instance, a class, a name or a plain dict.
    - `keep`: an int (number of tokens), `Ratio(share)`, or `PerFrame(...)`, which treats every frame of `cues.grid`
      separately; or its text, such as "1/4". A budget of n or more keeps everything, 0 keeps nothing.
    - `on_error`: if it is "even", a selection that fails keeps the same number of tokens, evenly spaced, protected ones
      first. A `PruneWarning` says why. Wrong arguments still raise.

    Raises ValueError if a cue that the method needs is missing, holds NaN or infinity, or is attention below 0. Raises
    TypeError or ValueError, with the class of the method, if your own method returns an invalid `Keep`. The method runs
    without gradients and outside autocast, so it decides in full precision.
    """
    return select_batch(method, [cues], [keep], on_error=on_error)[0]


def select_batch(
    method: Method | type[Method] | str | Mapping[str, Any],
    cues: Sequence[Cues],
    keep: Sequence[object],
    *,
    on_error: OnError = "raise",
) -> list[Keep]:
    """Choose for several images at once. The result equals `select(method, cues[i], keep[i])` for every i.

        first, second = select_batch("divprune", [Cues(a), Cues(b)], [64, Ratio(0.25)])

    Images may differ in size, and budgets in kind. The errors are those of `select`.
    """
    method = as_method(method)
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error={on_error!r} is unknown: choose one of {', '.join(get_args(OnError))}.")
    if len(cues) != len(keep):
        raise ValueError(f"there are {len(cues)} images and {len(keep)} budgets: pass one budget for every image.")
    for each in cues:
        if not isinstance(each, Cues):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"cues is a {type(each).__name__}: wrap the rows, Cues(features).")
    budgets = [_budget(method, each) for each in keep]
    try:
        return _chosen(method, cues, budgets)
    except Exception as error:
        if on_error == "raise":
            raise
        if len(cues) == 1:
            return [_evenly(method, cues[0], budgets[0], error)]
    return [select(method, each, budget, on_error=on_error) for each, budget in zip(cues, budgets, strict=True)]


def kept_count(
    method: Method | type[Method] | str | Mapping[str, Any],
    keep: object,
    n: int,
    grid: tuple[int, int, int] | None = None,
) -> int | None:
    """The number of n tokens on a (t, h, w) grid that a selection will keep. Nothing runs.

        kept_count("divprune", Ratio(0.25), 576)            # 144
        kept_count("pool", 130, 576, grid=(1, 24, 24))      # 121
        kept_count(GreedyPrune(fallback="none"), 64, 576)   # None

    None if only a run can say, since the method may keep fewer. The number is then at most `count(keep, n)`. Raises
    TypeError or ValueError for wrong arguments, and for a budget that the method refuses.
    """
    method = as_method(method)
    budget = _budget(method, keep)
    if not is_count(n, 0):
        raise ValueError(f"n={n!r} is no number of visual tokens: write an int, 0 or more.")
    grid = None if grid is None else as_grid(grid, n)
    if not isinstance(budget, PerFrame):
        return _kept(method, count(budget, n), n, grid)
    frames, frame = (1, None) if grid is None else (grid[0], (1, *grid[1:]))
    each = _kept(method, count(budget.tokens, n // frames), n // frames, frame)
    return None if each is None else frames * each


def _kept(method: Method, k: int, n: int, grid: tuple[int, int, int] | None) -> int | None:
    """The number of tokens that stay of one image or frame; None if only a run can say."""
    return k if _is_known(method, k, n) else method.kept(k, n, grid)


def _is_known(method: Method, k: int, n: int) -> bool:
    """True if everything or nothing stays, so the method need not run. An exact method runs to order all its rows."""
    return k == 0 or (k == n and not method.exact)


def _budget(method: Method, keep: object) -> int | Ratio | PerFrame:
    """Check the budget of one image. Raises if the method cannot choose with it."""
    keep = parse_budgets(keep) if isinstance(keep, str) else keep
    if not isinstance(keep, PerFrame):
        return as_budget(keep)
    method.check_frames(keep)
    return keep


def _chosen(method: Method, cues: Sequence[Cues], budgets: Sequence[int | Ratio | PerFrame]) -> list[Keep]:
    """Choose for all images at once. The method runs only on images where it must decide."""
    split = [
        frames(each) if isinstance(budget, PerFrame) else [each] for each, budget in zip(cues, budgets, strict=True)
    ]
    parts = [part for each in split for part in each]
    sizes = [_size(budget) for each, budget in zip(split, budgets, strict=True) for _ in each]
    wanted = [count(size, part.n) for size, part in zip(sizes, parts, strict=True)]
    found = [_without_running(method, part, k) for part, k in zip(parts, wanted, strict=True)]
    left = [index for index, keep in enumerate(found) if keep is None]
    if left:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for kind in sorted({parts[index].features.device.type for index in left}):
                stack.enter_context(torch.autocast(kind, enabled=False))
            chosen = [parts[index] for index in left]
            late = method.stays and all(resident(each.features) for each in chosen)
            sound = _sound(method, chosen)
            if not late:
                _require_sound(method, chosen, read_tests(sound))
            answers = _listed(method, method.select_batch(chosen, [wanted[index] for index in left]), len(left))
            keeps = _checked(method, answers, chosen, [wanted[index] for index in left], sound if late else [])
            for index, keep in zip(left, keeps, strict=True):
                found[index] = keep
    rest = iter(cast("list[Keep]", found))
    return [joined([next(rest) for _ in each]) for each in split]


def _size(budget: int | Ratio | PerFrame) -> int | Ratio:
    """The budget of one part: of a frame if the budget is per frame, else of the image."""
    return budget.tokens if isinstance(budget, PerFrame) else budget


def _listed(method: Method, answers: object, images: int) -> list[object]:
    """Check that `select_batch` returned a list with one answer per image."""
    if not isinstance(answers, list) or len(cast("list[object]", answers)) != images:
        raise TypeError(f"{type(method).__name__}.select_batch() must return a list of {images} Keeps, one per image.")
    return cast("list[object]", answers)


def _without_running(method: Method, cues: Cues, k: int) -> Keep | None:
    """Keep everything or nothing if that is known; None if the method must run. Raises if it cannot run."""
    for need in method.needs:
        if not need.met(cues):
            raise ValueError(f"{type(method).__name__} needs {need.word}, and the cues hold none: {need.remedy}.")
    protected = 0 if cues.protect is None else cues.protect.shape[0]
    if protected and method.merges:
        raise ValueError(f"{type(method).__name__} merges tokens and cannot protect any: leave out protect.")
    if protected > k:
        raise ValueError(f"protect holds {protected} tokens and the budget keeps {k}: raise keep, or protect fewer.")
    if _is_known(method, k, cues.n):
        chosen = torch.arange(k, device=cues.features.device)
        return Keep.from_order(chosen, torch.zeros(k, device=cues.features.device), cues.n)
    return None


def _evenly(method: Method, cues: Cues, budget: int | Ratio | PerFrame, error: Exception) -> Keep:
    """Warn, and keep as many evenly spaced tokens as the method would have kept, protected ones first."""
    each = frames(cues) if isinstance(budget, PerFrame) else [cues]
    keep = joined([_even(method, part, count(_size(budget), part.n)) for part in each])
    warnings.warn(
        f"{type(method).__name__} could not choose, so {keep.k} evenly spaced tokens of {cues.n} stay: "
        f"{type(error).__name__}: {error}",
        PruneWarning,
        stacklevel=4,
    )
    return keep


def _even(method: Method, cues: Cues, k: int) -> Keep:
    """Keep k evenly spaced tokens of one image or frame, fewer if the method is known to keep fewer. -> Keep"""
    with suppress(Exception):
        known = _kept(method, k, cues.n, cues.grid)
        k = k if known is None else min(k, known)
    device = cues.features.device
    rows = (2 * torch.arange(k, device=device) + 1) * cues.n // (2 * max(k, 1))
    order = protected_first(rows, cues.protect)[:k]
    return Keep.from_order(order, torch.zeros(k, device=device), cues.n, before_fallback=0)


def _sound(method: Method, cues: Sequence[Cues]) -> list[Tensor]:
    """Tests of the values of all cues, each (). A finite sum has only finite terms; attention is 0 or more."""
    found: list[Tensor] = []
    for each in cues:
        for _, value in each.floating():
            found.append(value.sum(dtype=torch.promote_types(value.dtype, torch.float32)).isfinite())
        found += [each[need].min() >= 0 for need in method.needs if isinstance(need, Attention)]
    return found


def _require_sound(method: Method, cues: Sequence[Cues], holds: list[bool]) -> None:
    """Raise ValueError if a cue holds NaN, infinity or negative attention. `holds`: what the tests of `_sound` say."""
    if not all(holds):  # a sum that overflows says nothing yet
        for each in cues:
            each.require_finite()
            each.require_weights(method.needs)


def _checked(
    method: Method, answers: list[object], cues: Sequence[Cues], wanted: list[int], sound: list[Tensor]
) -> list[Keep]:
    """Check a method's answers and return them; the host waits once for all tests, and for those of `sound` cues.

    The error names the method's class and says what to do.
    """
    name = f"{type(method).__name__}.select()"
    keeps: list[Keep] = []
    tests: list[list[tuple[Tensor, str]]] = []
    for found, each in zip(answers, cues, strict=True):
        if not isinstance(found, Keep):
            raise TypeError(
                f"{name} returned {'None' if found is None else f'a {type(found).__name__}'}: return "
                "Keep.from_order(order, gains, cues.n), order the (k,) rows that stay, in the order of taking them."
            )
        keeps.append(found)
        with _refused(name):
            tests.append(rules_of(found, each.n, each.features.device))
        if each.protect is not None:
            tests[-1].append(((found.rows[:, None] == each.protect).any(0).all(), ""))
    holds = read_tests([*sound, *(test for each in tests for test, _ in each)])
    _require_sound(method, cues, holds[: len(sound)])
    rest = iter(holds[len(sound) :])
    for keep, each, k, rules in zip(keeps, cues, wanted, tests, strict=True):
        true = [next(rest) for _ in rules]
        values = len(rules) - (each.protect is not None)
        with _refused(name):
            require_rules(keep, rules[:values], true[:values])
        if keep.k > k or (method.exact and keep.k != k):
            rule = "at most" if not method.exact else "exactly"
            hint = "" if not method.exact or keep.k > k else ", or let exact be False where it may return fewer"
            raise ValueError(
                f"{name} kept {keep.k} of {each.n} tokens where {k} were asked for: return {rule} k rows{hint}."
            )
        if not all(true[values:]):
            raise ValueError(f"{name} dropped a protected token: take the rows in cues.protect first.")
    return keeps


@contextmanager
def _refused(name: str) -> Generator[None]:
    """Say whose decision cannot be carried out, if a check of it raises."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} returned a Keep that cannot be carried out: {error}") from None


def frames(cues: Cues) -> list[Cues]:
    """Split cues by frame. Every frame gets the whole text. (n, ...) -> t x (n / t, ...)"""
    if cues.grid is None or cues.grid[0] == 1:
        return [cues]
    t, h, w = cues.grid
    return [_frame(cues, slice(f * h * w, (f + 1) * h * w), (1, h, w)) for f in range(t)]


def _frame(cues: Cues, rows: slice, grid: tuple[int, int, int]) -> Cues:
    """The cues of some rows, which form this grid."""

    def cut(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[rows]

    protect = cues.protect
    if protect is not None:
        protect = protect[(protect >= rows.start) & (protect < rows.stop)] - rows.start
    return replace(
        cues,
        features=cues.features[rows],
        grid=grid,
        tiles=None,
        attention=cut(cues.attention),
        keys=cut(cues.keys),
        encoded=cut(cues.encoded),
        relevance=cut(cues.relevance),
        more={need: v if getattr(need, "of", "") == "text" else v[rows] for need, v in cues.more.items()},
        protect=protect,
    )


def joined(keeps: list[Keep]) -> Keep:
    """Join the decisions about consecutive parts into one decision about the whole."""
    if len(keeps) == 1:
        return keeps[0]
    starts = [sum(keep.n for keep in keeps[:i]) for i in range(len(keeps))]
    both = list(zip(keeps, starts, strict=True))
    suppressed: Tensor | None = None
    weights: Tensor | None = None
    if any(keep.suppressed_by is not None for keep in keeps):
        suppressed = torch.cat([_suppressed(keep, start) for keep, start in both])
    if any(keep.weights is not None for keep in keeps):
        blocks = [keep.merge(torch.eye(keep.n, device=keep.rows.device)) for keep in keeps]
        weights = cast("Tensor", torch.block_diag(*blocks))  # pyright: ignore[reportUnknownMemberType]
    return Keep(
        n=sum(keep.n for keep in keeps),
        rows=torch.cat([keep.rows + start for keep, start in both]),
        order=torch.cat([keep.order + start for keep, start in both]),
        gains=torch.cat([keep.gains for keep in keeps]),
        before_fallback=torch.stack([keep.before_fallback for keep in keeps]).sum(),
        suppressed_by=suppressed,
        weights=weights,
    )


def _suppressed(keep: Keep, start: int) -> Tensor:
    """The token that each token was passed over for, numbered in the whole; -1 if there is none. -> (n,)"""
    by = keep.suppressed_by
    return keep.rows.new_full((keep.n,), -1) if by is None else torch.where(by < 0, by, by + start)
