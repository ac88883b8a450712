"""The places of a prompt's images in its sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from greedyprune.models._family import ImageTokens, Visuals
from greedyprune.questions import questions_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greedyprune.models._family import Medium
    from greedyprune.models.parts import Parts
    from greedyprune.ops.cut import Cut


SEPARATOR = 5
"""The largest number of tokens between two crops, including the markers around them."""


@dataclass(frozen=True, eq=False)
class Span:
    """The place of one image, video or sound in the sequence of one forward."""

    row: int
    """The prompt that holds it; -1 if no token of it is left."""
    columns: Tensor
    """(n,) the columns of its tokens, ascending."""
    image: ImageTokens
    breaks: tuple[tuple[int, Tensor], ...] = ()
    """The column of each structure token, with the columns of the tokens that it closes."""

    @property
    def n(self) -> int:
        """The number of its visual tokens."""
        return self.image.n

    @property
    def grid(self) -> tuple[int, int, int] | None:
        """(t, h, w) of its tokens; None if they lie on no grid."""
        return self.image.grid

    @property
    def kind(self) -> str:
        """The kind of input: image, video or audio."""
        return self.image.kind

    def after(self, cut: Cut, rows: Tensor) -> Span:
        """Return its place after a cut. `rows`: those of its tokens that the cut kept. (k,)"""
        if not rows.numel():
            return Span(-1, self.columns[:0], replace(self.image, n=0, grid=None, breaks=()))
        now = torch.full((cut.length,), -1, device="cpu")
        left = cut.columns[self.row][cut.valid[self.row]]
        now[left] = torch.arange(cut.columns.shape[1], device="cpu")[cut.valid[self.row]]
        breaks = tuple((int(now[at]), now[closed][now[closed] >= 0]) for at, closed in self.breaks if now[at] >= 0)
        columns, whole = now[self.columns[rows]], rows.numel() == self.image.n
        return Span(
            self.row, columns, replace(self.image, n=rows.numel(), grid=self.image.grid if whole else None), breaks
        )


@dataclass(frozen=True, eq=False)
class Prompt:
    """The places of images, text and padding in the sequence of one forward. Index tensors are on the CPU."""

    visual: Tensor
    """(b, q) bool: True for visual tokens, structure tokens included."""
    valid: Tensor
    """(b, q) bool: True for tokens that are not padding."""
    spans: list[Span]
    """The place of each image, video and sound, in the order of their placeholders."""
    drafts: int = 0
    """The number of tokens after the prompt: draft tokens of an assistant model, or the answer so far."""

    @property
    def is_prompt(self) -> Tensor:
        """(b, q) bool: True for tokens of the prompt; False for padding and for the draft tokens after it."""
        mine = self.valid.clone()
        mine[:, mine.shape[1] - self.drafts :] = False
        return mine

    @property
    def is_text(self) -> Tensor:
        """(b, q) bool: True for the prompt's text tokens."""
        return self.is_prompt & ~self.visual

    @property
    def last(self) -> list[int]:
        """The column of each prompt's last token, from which the model predicts the next one; 0 if a row is empty."""
        mine = self.is_prompt
        return [int(column) for column in (mine.int() * torch.arange(1, mine.shape[1] + 1, device="cpu")).argmax(1)]

    def text_of(self, row: int) -> Tensor:
        """Return the columns of one prompt's text tokens. -> (m,)"""
        return self.is_text[row].nonzero()[:, 0]

    def questions(self, ids: Tensor, ends: Sequence[int]) -> list[slice]:
        """Return the text rows of each image's question, as `gp.question_rows` says. `ids` (b, q)

        `ends`: the tokens that end a turn. If a turn has no text, all text of its prompt is the question.
        """
        found: dict[int, slice] = {}
        for row in range(ids.shape[0]):
            mine = [number for number, span in enumerate(self.spans) if span.row == row]
            image, text = torch.full(ids.shape[1:], -1, device="cpu"), self.text_of(row)
            for number in mine:
                image[self.spans[number].columns] = number
                image[[at for at, _ in self.spans[number].breaks]] = number
            columns = questions_of(ids[row], image, ~self.is_prompt[row], [[end] for end in ends])
            for number, asked in zip(mine, columns, strict=True):
                rows = torch.isin(text, asked).nonzero()
                found[number] = slice(int(rows[0]), int(rows[-1]) + 1) if rows.numel() else slice(0, text.numel())
        return [found[number] for number in range(len(self.spans))]

    def row_of_crops(self, ids: Tensor) -> int | None:
        """Return the first prompt whose images seem to be crops of one picture; None if there is none.

        Only text marks a crop: a few words follow the whole view, and the same short separator is between all crops.
        `ids` (b, q)
        """
        for row in range(ids.shape[0]):
            mine = [span.columns for span in self.spans if span.row == row]
            gaps = [ids[row, int(a[-1]) + 1 : int(b[0])] for a, b in pairwise(mine)]
            alike = len(gaps) > 1 and all(torch.equal(gap, gaps[1]) for gap in gaps[2:])
            if alike and gaps[1].numel() <= SEPARATOR and gaps[0].numel() > gaps[1].numel():
                return row
        return None

    @classmethod
    def of(cls, valid: Tensor, media: list[tuple[Tensor, list[ImageTokens]]]) -> Prompt:
        """Build it from the placeholders of each medium, (b, q) bool, and the images that they represent, in order."""
        visual, spans = torch.zeros_like(valid), list[Span]()
        for places, images in media:
            here = places & valid
            visual |= here
            spans += _spans(here, images)
        if len(media) > 1:
            spans.sort(key=lambda span: (span.row, int(span.columns[0])))
        return cls(visual, valid, spans)

    def after(self, cut: Cut, rows: list[Tensor]) -> Prompt:
        """Return the places after a cut. `rows`: the kept tokens of each image. All lie on the CPU."""
        spans = [span.after(cut, kept) for span, kept in zip(self.spans, rows, strict=True)]
        return Prompt(cut.take(self.visual, -1) & cut.valid, cut.valid, spans, self.drafts)


def _spans(visual: Tensor, images: list[ImageTokens]) -> list[Span]:
    """Assign the placeholders of one medium to its images, in order. (b, q) bool -> one span per image"""
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


def find_images(
    parts: Parts,
    places: Mapping[str, Tensor],
    features: Mapping[str, Any],
    ids: Tensor,
    positions: Tensor | None,
    embeds: Tensor,
) -> list[tuple[Tensor, list[ImageTokens]]]:
    """Find the images, videos and sounds of a call, for each kind that it brings, in the order of their placeholders.

    `places`: the placeholders of each kind, (b, q) bool. `features`: the features that the model computed for each
    kind. `ids` (b, q) and `positions` are on the CPU; only multimodal ones, (3, b, q), are read. `embeds` (b, q, d):
    the merged embeddings.
    """
    found: list[tuple[Tensor, list[ImageTokens]]] = []
    if positions is not None and positions.ndim < 3:
        positions = None
    for medium, _ in parts.media:
        here = places.get(medium.kind)
        if here is None or not bool(here.any()):
            continue
        rows = rows_of_features(features.get(medium.kind))
        breaks = newlines(parts, embeds, here)
        found.append((here, lay_out(parts, medium, Visuals(ids, here, rows, positions, breaks, medium.kind))))
    return found


def lay_out(parts: Parts, medium: Medium, visuals: Visuals) -> list[ImageTokens]:
    """Return the images that the placeholders of one medium represent, in order."""
    return [replace(image, kind=medium.kind) for image in medium.layout(parts.config, visuals)]


def rows_of_features(features: Any) -> list[int] | None:
    """Count the feature rows of each image; None if the model does not return them image by image."""
    rows = getattr(features, "pooler_output", features)
    if isinstance(rows, Tensor):
        return [rows.shape[1]] * rows.shape[0] if rows.ndim == 3 else None
    each = cast("list[object]", rows) if isinstance(rows, (list, tuple)) else []
    tensors = [tensor for tensor in each if isinstance(tensor, Tensor)]
    return [tensor.shape[:-1].numel() for tensor in tensors] if each and len(tensors) == len(each) else None


def newlines(parts: Parts, embeds: Tensor, here: Tensor) -> Tensor | None:
    """True for placeholders that hold the model's newline; None if the family has no newline.

    (b, q, d), (b, q) bool on the CPU -> (placeholders,) bool on the CPU
    """
    row = getattr(parts.outer, parts.family.newline or "", None)
    if row is None:
        return None
    return (embeds == row.detach().to(embeds)).all(-1).cpu()[here]
