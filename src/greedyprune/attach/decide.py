"""Deciding: from hidden states to which columns stay, image by image."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from greedyprune.attach.report import Selection
from greedyprune.attach.sequence import Cut
from greedyprune.budget import Ratio, count
from greedyprune.cues import Cues, Keys
from greedyprune.keep import Keep
from greedyprune.method import Method, select
from greedyprune.models._family import ImageTokens

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.attach.policy import Ask, Policy
    from greedyprune.cues import Need


class PruneWarning(UserWarning):
    """Fewer visual tokens were asked for, and nothing left the sequence."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """Where things are in the sequence of one forward. Index tensors live on the CPU."""

    visual: Tensor
    """(b, q) bool: which tokens are visual."""
    valid: Tensor
    """(b, q) bool: which are not padding."""
    images: list[ImageTokens]
    """In the order of their placeholders."""

    def spans(self) -> list[tuple[int, Tensor, ImageTokens]]:
        """The batch row and the columns of every image, row -1 if nothing is left of it. -> [(row, (n,), image)]"""
        rows, columns = self.visual.nonzero(as_tuple=True)
        spans: list[tuple[int, Tensor, ImageTokens]] = []
        start, total = 0, sum(image.n for image in self.images)
        for image in self.images:
            mine = rows[start : start + image.n]
            if total != rows.numel() or (image.n and int(mine[0]) != int(mine[-1])):
                raise ValueError(
                    f"the prompt holds {rows.numel()} image placeholders, its images have {total} visual tokens: "
                    "build text and images with the model's own processor."
                )
            spans.append((int(mine[0]) if image.n else -1, columns[start : start + image.n], image))
            start += image.n
        return spans

    def after(self, cut: Cut, selections: list[Selection]) -> Prompt:
        """Where things are once the cut was made."""
        local = replace(cut, columns=cut.columns.cpu(), valid=cut.valid.cpu())
        left = [ImageTokens(s.k, s.grid if s.k == s.n else None) for s in selections]
        return Prompt(local.take(self.visual, -1) & local.valid, local.valid, left)


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
    keep = prompt.valid.clone()
    keeps: list[Keep] = []
    selections: list[Selection] = []
    for index, ((row, columns, image), ask) in enumerate(zip(prompt.spans(), asked, strict=True)):
        original = earlier[index].keep if earlier else None
        k = min(count(ask.budget, earlier[index].n if earlier else image.n), image.n)
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
            chosen = select(method, cues, k)
        dropped = torch.ones(image.n, dtype=torch.bool)
        dropped[chosen.rows.to("cpu")] = False
        keep[row, columns[dropped]] = False
        keeps.append(chosen)
        if earlier:
            row, image = earlier[index].row, replace(image, grid=earlier[index].grid)
        selections.append(Selection(index, row, image.grid, ask.budget, chosen.of(original) if original else chosen))
    cut = Cut.keeping(keep.to(hidden.device))
    return Decision(cut, keeps, selections, time.perf_counter() - begun)


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
    """Pruning is never silently a no-op."""
    asked = any(isinstance(s.budget, Ratio) and s.budget.share < 1 for s in selections)
    if asked and all(s.k == s.n for s in selections):
        sizes = ", ".join(sorted({str(s.n) for s in selections}, key=int))
        warnings.warn(
            f"keep={policy.keep} of images with {sizes} visual tokens rounds to all of them: nothing was pruned.",
            PruneWarning,
            stacklevel=2,
        )


def _cues(states: Tensor, prompt: Prompt, row: int, columns: Tensor, image: ImageTokens, norm: Tensor | None) -> Cues:
    """What a method may look at for one image. (q, d) -> Cues"""
    is_text = prompt.valid[row] & ~prompt.visual[row]
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
