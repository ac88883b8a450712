"""Deciding: from hidden states to which columns stay, image by image."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from greedyprune.attach.report import Selection
from greedyprune.attach.sequence import Cut
from greedyprune.budget import Budget, count
from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.method import Method, select

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.models._family import ImageTokens
    from greedyprune.stages import Stage


class PruneWarning(UserWarning):
    """Fewer visual tokens were asked for, and nothing left the sequence."""


@dataclass(frozen=True)
class Policy:
    """What the user asked for: a method, a budget (or one per image) and the place of the cut."""

    method: Method
    keep: Budget | tuple[Budget, ...]
    at: Stage

    def budgets(self, images: int) -> list[Budget]:
        """One budget per image of a call."""
        if not isinstance(self.keep, tuple):
            return [self.keep] * images
        if len(self.keep) != images:
            raise ValueError(f"keep has {len(self.keep)} budgets, and the call has {images} images: give one for each.")
        return list(self.keep)


@dataclass(frozen=True, eq=False)
class Prompt:
    """Where things are in the prompt of one forward. Index tensors live on the CPU."""

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
        start = 0
        for image in self.images:
            mine = rows[start : start + image.n]
            if mine.numel() != image.n or (image.n and int(mine[0]) != int(mine[-1])):
                raise ValueError(
                    f"the prompt holds {rows.numel()} image placeholders, its images have "
                    f"{sum(i.n for i in self.images)} visual tokens: build both with the model's own processor."
                )
            if image.n:
                spans.append((int(mine[0]), columns[start : start + image.n], image))
            start += image.n
        if start != rows.numel():
            raise ValueError(
                f"the prompt holds {rows.numel()} image placeholders, its images have {start} visual tokens: "
                "build both with the model's own processor."
            )
        return spans


def decide(hidden: Tensor, prompt: Prompt, policy: Policy) -> tuple[Cut, list[Selection], float]:
    """Which columns stay, what was chosen per image, and the seconds it took. (b, q, d) -> Cut, ..."""
    begun = time.perf_counter()
    spans = prompt.spans()
    keep = prompt.valid.clone()
    selections: list[Selection] = []
    for index, ((row, columns, image), budget) in enumerate(zip(spans, policy.budgets(len(spans)), strict=True)):
        if count(budget, image.n) == image.n:
            chosen = Keep.everything(image.n, hidden.device)
        else:
            chosen = select(policy.method, _cues(hidden[row], prompt, row, columns, image), budget)
        dropped = torch.ones(image.n, dtype=torch.bool)
        dropped[chosen.rows.to("cpu")] = False
        keep[row, columns[dropped]] = False
        selections.append(Selection(index, row, image.grid, budget, chosen))
    asked = any(count(s.budget, s.n) < s.n for s in selections)
    if asked and all(s.k == s.n for s in selections):
        warnings.warn(
            f"{policy.method!r} kept all visual tokens although fewer were asked for: nothing was pruned.",
            PruneWarning,
            stacklevel=2,
        )
    cut = Cut.keeping(keep.to(hidden.device))
    return cut, selections, time.perf_counter() - begun


def _cues(states: Tensor, prompt: Prompt, row: int, columns: Tensor, image: ImageTokens) -> Cues:
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
    )
