"""Deciding: from hidden states to which columns stay, image by image."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from greedyprune.attach.report import Selection
from greedyprune.attach.sequence import Cut
from greedyprune.budget import Budget, Budgets, PerLayer, Ratio, count
from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.method import Method, select
from greedyprune.models._family import ImageTokens
from greedyprune.stages import Layer, Stage

if TYPE_CHECKING:
    from torch import Tensor

Positions = Literal["original", "compact"]


class PruneWarning(UserWarning):
    """Fewer visual tokens were asked for, and nothing left the sequence."""


@dataclass(frozen=True)
class Policy:
    """What the user asked for: a method, a budget, the place of the cut, and what positions kept tokens have."""

    method: Method
    keep: Budgets
    at: Stage
    positions: Positions = "original"

    @property
    def place(self) -> str:
        """Where this cuts, as text."""
        return "layers:" + ",".join(map(str, self.keep.schedule)) if isinstance(self.keep, PerLayer) else str(self.at)

    @property
    def starts(self) -> list[int]:
        """The decoder layers before which tokens leave; empty if they leave before the decoder."""
        if isinstance(self.keep, PerLayer):
            return list(self.keep.schedule)
        return [self.at.index] if isinstance(self.at, Layer) else []

    @property
    def early(self) -> bool:
        """Whether caches of layers before the cut are cut too."""
        return isinstance(self.at, Layer) and self.at.early and not isinstance(self.keep, PerLayer)

    def budgets(self, start: int, rows: list[int], hidden: Tensor) -> list[Budget]:
        """One budget per image of a call, for the cut before decoder layer `start`. `rows` has each image's prompt.

        Beams and several returns repeat every prompt, its images with it; a list of budgets repeats alike. They are
        known by their states, which are those of the prompt they repeat. (b, q, d)
        """
        if isinstance(self.keep, PerLayer):
            return [self.keep.schedule[start]] * len(rows)
        if not isinstance(self.keep, tuple):
            return [self.keep] * len(rows)
        given = len(self.keep)
        times = len(rows) // given
        once = [image for image, row in enumerate(rows) if times and row % times == 0]
        if times * given != len(rows) or len(once) != given or not _repeats(hidden, times):
            raise ValueError(f"keep has {given} budgets, and the call has {len(rows)} images: give one for each.")
        place = {image: n for n, image in enumerate(once)}
        budgets: list[Budget] = []
        for image, row in enumerate(rows):
            first, mine = rows.index(row), rows.index(row - row % times)
            budgets.append(self.keep[place[mine + image - first]])
        return budgets


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
        """The batch row and the columns of every image. -> [(row, (n,), image)]"""
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
            if image.n:
                spans.append((int(mine[0]), columns[start : start + image.n], image))
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
    hidden: Tensor, prompt: Prompt, policy: Policy, start: int, norm: Tensor | None, earlier: list[Selection]
) -> Decision:
    """Which columns stay. `earlier` is what a cut before an earlier layer of this forward chose. (b, q, d) -> ..."""
    begun = time.perf_counter()
    spans = prompt.spans()
    keep = prompt.valid.clone()
    keeps: list[Keep] = []
    selections: list[Selection] = []
    budgets = policy.budgets(start, [row for row, _, _ in spans], hidden)
    for index, ((row, columns, image), budget) in enumerate(zip(spans, budgets, strict=True)):
        k = min(count(budget, earlier[index].n if earlier else image.n), image.n)
        if k == image.n:
            chosen = Keep.everything(image.n, hidden.device)
        else:
            chosen = select(policy.method, _cues(hidden[row], prompt, row, columns, image, norm), k)
        dropped = torch.ones(image.n, dtype=torch.bool)
        dropped[chosen.rows.to("cpu")] = False
        keep[row, columns[dropped]] = False
        keeps.append(chosen)
        original = earlier[index].keep if earlier else None
        grid = earlier[index].grid if earlier else image.grid
        selections.append(Selection(index, row, grid, budget, chosen.of(original) if original else chosen))
    cut = Cut.keeping(keep.to(hidden.device))
    return Decision(cut, keeps, selections, time.perf_counter() - begun)


def _repeats(hidden: Tensor, times: int) -> bool:
    """Whether a batch is made of prompts that each stand there `times` times in a row. (b, q, d) -> bool"""
    if times == 1:
        return True
    if hidden.shape[0] % times:
        return False
    groups = hidden.unflatten(0, (-1, times))
    return bool((groups - groups[:, :1]).abs().max() <= 1e-2 * hidden.abs().max())


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
