"""Frames of a clip: cues split frame by frame, and the decisions about them joined to one about the clip."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch

from greedyprune.keep import Keep

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.cues import Cues


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
