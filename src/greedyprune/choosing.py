"""Choosing: run a method on plain tensors, with no model anywhere; every check is made once, here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from greedyprune.budget import as_budget, count
from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.naming import as_method

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.budget import PerFrame
    from greedyprune.method import Method


def select(method: Method | type[Method] | str | Mapping[str, Any], cues: Cues, keep: object) -> Keep:
    """Choose which visual tokens of one image stay, on plain tensors, with no model anywhere.

    `method` is an instance, a class or a registered name; `keep` an int (that many tokens) or `Ratio(share)`. A budget
    of n or more keeps everything, 0 keeps nothing. Raises ValueError for cues that the method needs and are missing, or
    that hold NaN or infinity, or attention below 0; and TypeError or ValueError, which name the method's class, where a
    method of your own returns no `Keep` that can be carried out. Runs without gradients and outside autocast, so
    decisions are made in full precision.

        keep = select("greedyprune", Cues(features, text=text), 64)
        features, positions = keep(features), keep(positions)
    """
    method = as_method(method)
    if not isinstance(cues, Cues):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"cues is a {type(cues).__name__}: wrap the rows, Cues(features).")
    k = count(as_budget(keep), cues.n)
    for need in method.needs:
        if not need.met(cues):
            raise ValueError(
                f"{type(method).__name__} needs {type(need).__name__.lower()}, and the cues hold none: {need.remedy}."
            )
    protected = 0 if cues.protect is None else cues.protect.shape[0]
    if protected and method.merges:
        raise ValueError(f"{type(method).__name__} merges tokens and cannot protect any: leave out protect.")
    if protected > k:
        raise ValueError(f"protect holds {protected} tokens and the budget keeps {k}: raise keep, or protect fewer.")
    if k == 0 or (k == cues.n and not method.exact):
        chosen = torch.arange(k, device=cues.features.device)
        return Keep.from_order(chosen, torch.zeros(k, device=cues.features.device), cues.n)
    with torch.no_grad(), torch.autocast(cues.features.device.type, enabled=False):
        cues.require_finite()
        cues.require_weights(method.needs)
        return _checked(method, method.select(cues, k), cues, k)


def _checked(method: Method, found: object, cues: Cues, k: int) -> Keep:
    """What a method returned, where it can be carried out; else an error that names its class and says what to do."""
    name = f"{type(method).__name__}.select()"
    if not isinstance(found, Keep):
        raise TypeError(
            f"{name} returned {'None' if found is None else f'a {type(found).__name__}'}: "
            "return Keep.from_order(order, gains, cues.n), order the (k,) rows that stay, in the order of taking them."
        )
    try:
        found.check(cues.n, cues.features.device)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} returned a Keep that cannot be carried out: {error}") from None
    if found.k > k or (method.exact and found.k != k):
        rule = "at most" if not method.exact else "exactly"
        hint = "" if not method.exact or found.k > k else ", or let exact be False where it may return fewer"
        raise ValueError(
            f"{name} kept {found.k} of {cues.n} tokens where {k} were asked for: return {rule} k rows{hint}."
        )
    if cues.protect is not None and not bool(torch.isin(cues.protect, found.rows).all()):
        raise ValueError(f"{name} dropped a protected token: take the rows in cues.protect first.")
    return found


def select_frames(method: Method, cues: Cues, keep: PerFrame) -> Keep:
    """Choose of every frame by itself; without a grid all rows are one frame. (n, d) -> Keep, frame by frame

    Nothing is certified of the whole, since tokens of two frames are never compared.
    """
    each = frames(cues)
    return joined([select(method, frame, count(keep.tokens, frame.n)) for frame in each])


def frames(cues: Cues) -> list[Cues]:
    """The cues of each frame; text belongs to all of them. (n, ...) -> t x (n / t, ...)"""
    if cues.grid is None or cues.grid[0] == 1:
        return [cues]
    t, h, w = cues.grid
    return [_frame(cues, slice(f * h * w, (f + 1) * h * w), (1, h, w)) for f in range(t)]


def _frame(cues: Cues, rows: slice, grid: tuple[int, int, int]) -> Cues:
    """The cues of some rows, which lie on this grid."""

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
    """Decisions about parts that follow each other, as one about them all."""
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
    """For which token each was passed over, in the numbers of the whole; -1 where for none. -> (n,)"""
    by = keep.suppressed_by
    return keep.rows.new_full((keep.n,), -1) if by is None else torch.where(by < 0, by, by + start)
