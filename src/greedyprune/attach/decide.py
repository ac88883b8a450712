"""Deciding: from hidden states to which columns stay, image by image."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from greedyprune.attach.report import Selection
from greedyprune.attach.sequence import Cut
from greedyprune.budget import PerFrame, Ratio
from greedyprune.cues import Cues, Keys
from greedyprune.frames import select_frames
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
class Span:
    """Where one image, video or sound stands in the sequence of one forward."""

    row: int
    """The prompt it belongs to, -1 if nothing is left of it."""
    columns: Tensor
    """(n,) its tokens, ascending."""
    image: ImageTokens
    breaks: tuple[tuple[int, Tensor], ...] = ()
    """Structure tokens: the column of each, and the columns of the tokens that it closes."""

    def after(self, cut: Cut, keep: Keep) -> Span:
        """Where it stands once the cut was made, which left of it what `keep` says."""
        if not keep.k:
            return Span(-1, self.columns[:0], replace(self.image, n=0, grid=None, breaks=()))
        now = torch.full((cut.length,), -1, device="cpu")
        left = cut.columns[self.row][cut.valid[self.row]]
        now[left] = torch.arange(cut.columns.shape[1], device="cpu")[cut.valid[self.row]]
        breaks = tuple((int(now[at]), now[closed][now[closed] >= 0]) for at, closed in self.breaks if now[at] >= 0)
        columns, whole = now[self.columns[keep.rows.cpu()]], keep.k == self.image.n
        return Span(self.row, columns, replace(self.image, n=keep.k, grid=self.image.grid if whole else None), breaks)


@dataclass(frozen=True, eq=False)
class Prompt:
    """Where things are in the sequence of one forward. Index tensors live on the CPU."""

    visual: Tensor
    """(b, q) bool: which tokens are visual, structure tokens included."""
    valid: Tensor
    """(b, q) bool: which are not padding."""
    spans: list[Span]
    """Where each image, video and sound stands, in the order of their placeholders."""
    drafts: int = 0
    """How many of the last tokens are no prompt, but an assistant's guesses or the answer so far."""

    @property
    def asked(self) -> Tensor:
        """(b, q) bool: which tokens are the prompt itself."""
        asked = self.valid.clone()
        asked[:, asked.shape[1] - self.drafts :] = False
        return asked

    @property
    def last(self) -> list[int]:
        """The column of each prompt's last token, off which the next one is read; 0 of a row that is empty."""
        asked = self.asked
        return [int(column) for column in (asked.int() * torch.arange(1, asked.shape[1] + 1, device="cpu")).argmax(1)]

    @classmethod
    def of(cls, valid: Tensor, media: list[tuple[Tensor, list[ImageTokens]]]) -> Prompt:
        """From the placeholders of each medium, (b, q) bool, and what stands behind them, in order."""
        visual, spans = torch.zeros_like(valid), list[Span]()
        for places, images in media:
            here = places & valid
            visual |= here
            spans += _spans(here, images)
        if len(media) > 1:
            spans.sort(key=lambda span: (span.row, int(span.columns[0])))
        return cls(visual, valid, spans)

    def after(self, cut: Cut, keeps: list[Keep]) -> Prompt:
        """Where things are once the cut was made."""
        local = replace(cut, columns=cut.columns.cpu(), valid=cut.valid.cpu())
        spans = [span.after(local, keep) for span, keep in zip(self.spans, keeps, strict=True)]
        return Prompt(local.take(self.visual, -1) & local.valid, local.valid, spans, self.drafts)


def _spans(visual: Tensor, images: list[ImageTokens]) -> list[Span]:
    """Share the placeholders of one medium out to what stands behind them. (b, q) bool -> ..."""
    rows, columns = visual.nonzero(as_tuple=True)
    spans: list[Span] = []
    start, total = 0, sum(image.length for image in images)
    for image in images:
        mine, here = rows[start : start + image.length], columns[start : start + image.length]
        if total != rows.numel() or not image.length or int(mine[0]) != int(mine[-1]):
            raise ValueError(
                f"the prompt holds {rows.numel()} {image.kind} placeholders, its {image.kind}s have {total} visual "
                "tokens: build text and images with the model's own processor."
            )
        plain = torch.ones(image.length, dtype=torch.bool, device="cpu")
        plain[[at for at, _, _ in image.breaks]] = False
        breaks = tuple((int(here[at]), here[first:end][plain[first:end]]) for at, first, end in image.breaks)
        spans.append(Span(int(mine[0]), here[plain], image, breaks))
        start += image.length
    return spans


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
