"""Deciding: from hidden states to which columns stay, image by image."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from greedyprune.budget import PerFrame, Ratio
from greedyprune.choosing import select, select_frames
from greedyprune.cues import Cues, Keys
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.models._family import ImageTokens
from greedyprune.ops.cut import Cut
from greedyprune.selection import Selection

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.attach.forward.quotas import Ask
    from greedyprune.cues import Need
    from greedyprune.policy import Policy


@dataclass(frozen=True, eq=False)
class Decision:
    """What came out for one forward at one place."""

    cut: Cut
    """Of the sequence as it stood there."""
    keeps: list[Keep]
    """Per image, in rows of the image as it stood there."""
    selections: list[Selection]
    """Per image, in the user's original visual tokens."""
    seconds: float


def decide(
    hidden: Tensor,
    prompt: Prompt,
    method: Method,
    asked: list[Ask],
    probed: dict[Need, list[Tensor]],
    norm: Tensor | None,
    earlier: list[Selection],
) -> Decision:
    """Which columns stay. `earlier` is what a cut before an earlier layer of this forward chose. (b, q, d) -> ..."""
    begun = time.perf_counter()
    keep, last = prompt.valid.clone(), prompt.last
    keeps: list[Keep] = []
    selections: list[Selection] = []
    for index, (span, ask) in enumerate(zip(prompt.spans, asked, strict=True)):
        row, columns, image, budget = span.row, span.columns, span.image, ask.budget
        original = earlier[index].keep if earlier else None
        k = min(ask.count(earlier[index].n if earlier else image.n), image.n)
        if k == image.n:
            chosen = Keep.everything(image.n, hidden.device)
        else:
            left = slice(None) if original is None else original.rows
            cues = replace(
                _cues(hidden[row], prompt, row, columns, image, norm),
                protect=_protected(ask, original, hidden.device),
                relevance=None if ask.relevance is None else ask.relevance.to(hidden.device)[left],
                more={need: _still(need, values[index].to(hidden.device), left) for need, values in probed.items()},
            )
            chosen = select_frames(method, cues, budget) if isinstance(budget, PerFrame) else select(method, cues, k)
        dropped = torch.ones(image.n, dtype=torch.bool, device="cpu")
        dropped[chosen.rows.to("cpu")] = False
        keep[row, columns[dropped]] = False
        for at, closed in span.breaks:
            keep[row, at] = bool(keep[row, closed].any()) or at == last[row]
        keeps.append(chosen)
        selections.append(_selection(index, span, ask, chosen, keep, earlier))
    cut = Cut.keeping(keep.to(hidden.device))
    return Decision(cut, keeps, selections, time.perf_counter() - begun)


def _selection(index: int, span: Span, ask: Ask, chosen: Keep, keep: Tensor, earlier: list[Selection]) -> Selection:
    """What was chosen, in the image's original visual tokens."""
    if earlier:
        first = earlier[index]
        breaks = tuple(b for b, (at, _) in zip(first.breaks, span.breaks, strict=True) if keep[span.row, at])
        return replace(first, budget=ask.budget, keep=chosen.of(first.keep), breaks=breaks)
    image = span.image
    structure = tuple(place for place, _, _ in image.breaks)
    breaks = tuple(place for (at, _), place in zip(span.breaks, structure, strict=True) if keep[span.row, at])
    return Selection(index, span.row, image.grid, ask.budget, chosen, breaks, image.kind, structure)


def _still(need: Need, values: Tensor, left: Tensor | slice) -> Tensor:
    """A cue of the tokens that an earlier cut left; text always stays. (n, ...) -> (k, ...)"""
    return values if isinstance(need, Keys) and need.of == "text" else values[left]


def _protected(ask: Ask, original: Keep | None, device: torch.device) -> Tensor | None:
    """What must be kept, in the rows that an earlier cut left. -> (p,)"""
    if not ask.protect:
        return None
    rows = torch.tensor(ask.protect, device=device)
    return rows if original is None else torch.searchsorted(original.rows, rows)


def warn_if_idle(policy: Policy, selections: list[Selection]) -> None:
    """Pruning is never silently a no-op: a share of less than all, or more tokens than there are, that kept all."""
    if not selections or any(s.k != s.n for s in selections):
        return
    sizes = ", ".join(sorted({str(s.n) for s in selections}, key=int))
    shares = [s.budget.tokens if isinstance(s.budget, PerFrame) else s.budget for s in selections]
    if any(isinstance(share, Ratio) and share.share < 1 for share in shares):
        what = "rounds to all of them"
    elif all(isinstance(s.budget, int) and s.budget > s.n for s in selections):
        what = "is more than all of them"
    else:
        return
    warnings.warn(
        f"keep={policy.keep} of images with {sizes} visual tokens {what}: nothing was pruned.",
        PruneWarning,
        stacklevel=2,
    )


def _cues(states: Tensor, prompt: Prompt, row: int, columns: Tensor, image: ImageTokens, norm: Tensor | None) -> Cues:
    """What a method may look at for one image. (q, d) -> Cues"""
    is_text = prompt.asked[row] & ~prompt.visual[row]
    last_visual = int(prompt.visual[row].nonzero()[-1, 0])
    before = int(is_text[:last_visual].sum())
    total = int(is_text.sum())
    return Cues(
        features=states[columns.to(states.device)],
        text=states[is_text.nonzero()[:, 0].to(states.device)],
        question=slice(before if before < total else 0, total),
        grid=image.grid,
        norm=None if norm is None else norm.to(states.device),
    )
