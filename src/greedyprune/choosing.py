"""Choosing: run a method on plain tensors, without a model. Every check is made once, here."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import torch

from greedyprune.budget import PerFrame, Ratio, as_budget, count, parse_budgets
from greedyprune.checks import as_grid, is_count
from greedyprune.cues import Attention, Cues
from greedyprune.frames import frames, joined
from greedyprune.keep import Keep, protected_first, read_tests, require_rules, rules_of, stacked_tests
from greedyprune.method import Unread
from greedyprune.naming import as_method
from greedyprune.resident import read, resident
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
        return [keep for keep, _ in _chosen(method, cues, budgets)]
    except Exception as error:
        if on_error == "raise":
            raise
        if len(cues) == 1:
            return [_evenly(method, cues[0], budgets[0], error)]
    return [select(method, each, budget, on_error=on_error) for each, budget in zip(cues, budgets, strict=True)]


def select_with_rows(
    method: Method, cues: Sequence[Cues], keep: Sequence[int | Ratio | PerFrame]
) -> list[tuple[Keep, Tensor]]:
    """Choose as `select_batch` does, and return each decision with its rows on the CPU, (k,), ascending.

    The rows come with the values that the choice itself reads from a GPU, or else with one more wait for all images.
    """
    found = _chosen(method, cues, [_budget(method, each) for each in keep])
    near = iter(read([one.rows for one, rows in found if rows is None]))
    return [(one, next(near) if rows is None else rows) for one, rows in found]


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


def _chosen(
    method: Method, cues: Sequence[Cues], budgets: Sequence[int | Ratio | PerFrame]
) -> list[tuple[Keep, Tensor | None]]:
    """Choose for all images at once. The method runs only on images where it must decide.

    Each decision comes with its rows on the CPU, or None if they lie on a GPU and nobody has read them.
    """
    split = [
        frames(each) if isinstance(budget, PerFrame) else [each] for each, budget in zip(cues, budgets, strict=True)
    ]
    parts = [part for each in split for part in each]
    sizes = [_size(budget) for each, budget in zip(split, budgets, strict=True) for _ in each]
    wanted = [count(size, part.n) for size, part in zip(sizes, parts, strict=True)]
    found: list[tuple[Keep, Tensor | None] | None] = [
        _without_running(method, part, k) for part, k in zip(parts, wanted, strict=True)
    ]
    left = [index for index, keep in enumerate(found) if keep is None]
    if left:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for kind in sorted({parts[index].features.device.type for index in left}):
                stack.enter_context(torch.autocast(kind, enabled=False))
            decided = _decided(method, [parts[index] for index in left], [wanted[index] for index in left])
            for index, keep in zip(left, decided, strict=True):
                found[index] = keep
    rest = iter(cast("list[tuple[Keep, Tensor | None]]", found))
    return [_joined([next(rest) for _ in each]) for each in split]


def _joined(parts: list[tuple[Keep, Tensor | None]]) -> tuple[Keep, Tensor | None]:
    """Join the decisions about the parts of an image, and their rows on the CPU if all of them are known."""
    if len(parts) == 1:
        return parts[0]
    near, start = list["Tensor"](), 0
    for keep, rows in parts:
        near += [] if rows is None else [rows + start]
        start += keep.n
    return joined([keep for keep, _ in parts]), torch.cat(near) if len(near) == len(parts) else None


def _decided(method: Method, cues: Sequence[Cues], wanted: list[int]) -> list[tuple[Keep, Tensor | None]]:
    """Let the method choose, and check what it says, with as few waits for a GPU as there can be: one if it `stays`."""
    sound = _sound(method, cues)
    late = method.stays and all(resident(each.features) for each in cues)
    if not late:
        _require_sound(method, cues, read_tests(sound))
    begun = method.begin_batch(cues, wanted) if late else None
    answers = _listed(method, method.select_batch(cues, wanted), len(cues)) if begun is None else begun
    keeps = [each.keep if isinstance(each, Unread) else each for each in answers]
    rules = _rules(method, keeps, cues)
    tests = [*(sound if late else []), *(test for each in rules for test, _ in each)]
    told: list[Tensor] = []
    if begun is None:
        holds = read_tests(tests)
    else:
        numbers, orders = [each.numbers for each in begun], [each.keep.order for each in begun]
        first, *told = read([stacked_tests(tests), *numbers, *orders])
        holds = cast("list[bool]", cast("Any", first).tolist())
    _require_sound(method, cues, holds[: len(tests) - sum(map(len, rules))])
    if begun is not None:
        keeps = [each.read(numbers) for each, numbers in zip(begun, told, strict=False)]
    whole = _checked(method, cast("list[Keep]", keeps), cues, wanted, rules, holds)
    if begun is not None:
        return [(keep, order[: keep.k].sort().values) for keep, order in zip(whole, told[len(whole) :], strict=True)]
    return [(keep, keep.rows if keep.rows.device.type == "cpu" else None) for keep in whole]


def _size(budget: int | Ratio | PerFrame) -> int | Ratio:
    """The budget of one part: of a frame if the budget is per frame, else of the image."""
    return budget.tokens if isinstance(budget, PerFrame) else budget


def _listed(method: Method, answers: object, images: int) -> list[object]:
    """Check that `select_batch` returned a list with one answer per image."""
    if not isinstance(answers, list) or len(cast("list[object]", answers)) != images:
        raise TypeError(f"{type(method).__name__}.select_batch() must return a list of {images} Keeps, one per image.")
    return cast("list[object]", answers)


def _without_running(method: Method, cues: Cues, k: int) -> tuple[Keep, Tensor] | None:
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
        keep = Keep.from_order(chosen, torch.zeros(k, device=cues.features.device), cues.n)
        return keep, torch.arange(k, device="cpu")
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


def _rules(method: Method, answers: list[Any], cues: Sequence[Cues]) -> list[list[tuple[Tensor, str]]]:
    """Check the types and shapes of a method's answers, and return the tests of their values, as `rules_of` does.

    The last test of an image with protected tokens is whether they stay.
    """
    name = f"{type(method).__name__}.select()"
    rules: list[list[tuple[Tensor, str]]] = []
    for found, each in zip(answers, cues, strict=True):
        if not isinstance(found, Keep):
            raise TypeError(
                f"{name} returned {'None' if found is None else f'a {type(found).__name__}'}: return "
                "Keep.from_order(order, gains, cues.n), order the (k,) rows that stay, in the order of taking them."
            )
        with _refused(name):
            rules.append(rules_of(found, each.n, each.features.device))
        if each.protect is not None:
            rules[-1].append(((found.rows[:, None] == each.protect).any(0).all(), ""))
    return rules


def _checked(
    method: Method,
    keeps: list[Keep],
    cues: Sequence[Cues],
    wanted: list[int],
    rules: list[list[tuple[Tensor, str]]],
    holds: list[bool],
) -> list[Keep]:
    """Return a method's answers if the last of `holds` say that they pass the rules.

    The error names the method's class and says what to do.
    """
    name = f"{type(method).__name__}.select()"
    rest = iter(holds[len(holds) - sum(map(len, rules)) :])
    for keep, each, k, mine in zip(keeps, cues, wanted, rules, strict=True):
        true = [next(rest) for _ in mine]
        values = len(mine) - (each.protect is not None)
        with _refused(name):
            require_rules(keep, mine[:values], true[:values])
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
