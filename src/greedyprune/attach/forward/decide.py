"""Decide which columns stay: from hidden states to kept tokens, image by image."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.attach.forward.quotas import keep_last_tokens, quotas
from greedyprune.budget import PerFrame, Ratio
from greedyprune.choosing import select_with_rows
from greedyprune.clock import Clock
from greedyprune.cues import Cues, Keys
from greedyprune.keep import Keep
from greedyprune.models.layers import told
from greedyprune.models.needs import in_tower, placed
from greedyprune.ops.cut import Cut
from greedyprune.resident import send
from greedyprune.selection import PruneWarning, Selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greedyprune.attach.forward.quotas import Quota
    from greedyprune.cues import Need, Seen
    from greedyprune.hints import Hints
    from greedyprune.method import Method
    from greedyprune.models._family import ImageTokens
    from greedyprune.models.parts import Parts
    from greedyprune.models.prompt import Prompt, Span
    from greedyprune.policy import Policy


@dataclass(frozen=True, eq=False)
class Decision:
    """The decision of one forward at one place."""

    cut: Cut
    """The cut of the sequence that reached this place."""
    host: Cut
    """The same on the CPU, where it was decided."""
    keeps: list[Keep]
    """Per image, the kept tokens among those that reached this place."""
    rows: list[Tensor]
    """Per image, the rows of its decision, on the CPU."""
    selections: list[Selection]
    """Per image, the kept tokens among the image's original visual tokens."""
    clock: Clock
    """The time that the decision took."""

    def shorten(self, hidden: Tensor, prompt: Prompt) -> Tensor:
        """Return the states that stay. (b, q, d) -> (b, q', d)

        If the method merges, a kept token holds the mean of its group. `prompt`: the places before this cut.
        """
        short = self.cut.take(hidden, -2)
        for span, keep in zip(prompt.spans, self.keeps, strict=True):
            if keep.weights is None:
                continue
            columns = send(span.columns, hidden.device)
            at = (self.cut.columns[span.row] == keep(columns)[:, None]) & self.cut.valid[span.row]
            short[span.row, at.to(torch.uint8).argmax(1)] = keep.merge(hidden[span.row, columns])
        return short


@dataclass(frozen=True, eq=False)
class Step:
    """One cut made in this forward."""

    start: int
    """The decoder layer before which the cut was made; 0 for a cut before the decoder."""
    fresh: Cut
    """The cut of this forward's tokens, in their original columns."""
    host: Cut
    """The same on the CPU."""
    whole: Cut
    """The cut of all tokens so far, this forward's included. A cache layer after the cut holds these tokens."""
    masked: Cut
    """Like `whole`, but numbered in the columns of the text model's own masks.

    They differ if the layer that sizes these masks is already short."""
    keeps: list[Keep]
    """Per image, the kept tokens among all its tokens."""
    clock: Clock
    """The time that the decision took."""

    @cached_property
    def kept(self) -> list[int]:
        """Per image, the number of its tokens that stay."""
        return [keep.k for keep in self.keeps]

    def planes(self, features: list[Tensor]) -> list[Tensor]:
        """Cut DeepStack features to the kept tokens. Merged tokens get merged features. (n of all images, d) each"""
        cut: list[Tensor] = []
        for plane in features:
            parts, start = list[Tensor](), 0
            for keep in self.keeps:
                parts.append(keep.merge(plane[start : start + keep.n]))
                start += keep.n
            cut.append(torch.cat(parts))
        return cut


@dataclass(frozen=True, eq=False)
class Shared:
    """The arguments that a kind of decoder layer gets behind a cut, with the objects that they were made from."""

    step: Step
    mask: Tensor | None
    rotary: Any
    edits: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Decider:
    """A policy for the images of one prompt. Its budgets are resolved to numbers, and all checks are done."""

    policy: Policy
    quotas: Mapping[int, list[Quota]]
    """For the cut before each decoder layer, the quota of each image."""
    questions: list[slice]
    """The text rows of each image's question. Text always stays, so they hold at every cut."""
    norm: Tensor | None
    """The factors of the decoder's final norm; None if the method does not read them, or if there are none."""

    @classmethod
    def of(cls, policy: Policy, hints: Hints, parts: Parts, prompt: Prompt, ids: Tensor, embeds: Tensor) -> Decider:
        """Resolve the budgets. `ids` (b, q) on the CPU, `embeds` (b, q, d).

        Raises ValueError if budgets or hints do not fit the images.
        """
        found = quotas(policy, hints, len(parts.layers), prompt.spans, embeds)
        kept = keep_last_tokens(found, prompt, policy.method)
        method = policy.method
        norm = parts.norm if "norm" in method.reads or not _is_ours(method) else None
        return cls(policy, kept, prompt.questions(ids, parts.ends), norm)

    def uneven(self, prompt: Prompt) -> bool:
        """True if the prompts of a batch may keep different numbers of tokens after some cut."""
        for cut in self.quotas.values():
            counts = (prompt.valid & ~prompt.visual).sum(1)
            for span, quota in zip(prompt.spans, cut, strict=True):
                whole = quota.k == span.image.n
                counts[span.row] += span.image.length if whole else quota.k
                if not whole and quota.k and (not self.policy.method.exact or span.breaks):
                    return True
            if bool((counts != counts[0]).any()):
                return True
        return False

    def decide(
        self, start: int, hidden: Tensor, prompt: Prompt, seen: Mapping[Need, list[Tensor]], earlier: list[Selection]
    ) -> Decision:
        """Decide before decoder layer `start`. (b, q, d) -> Decision

        `seen`: the cues beyond the states, per image. `earlier`: the choice of a cut before an earlier layer.
        """
        clock = Clock(hidden.device)
        keeps, rows = self._keeps(start, hidden, prompt, seen, earlier)
        stays, last = prompt.valid.clone(), prompt.last
        selections: list[Selection] = []
        for index, (span, quota) in enumerate(zip(prompt.spans, self.quotas[start], strict=True)):
            dropped = torch.ones(span.image.n, dtype=torch.bool, device="cpu")
            dropped[rows[index]] = False
            stays[span.row, span.columns[dropped]] = False
            for at, closed in span.breaks:
                stays[span.row, at] = bool(stays[span.row, closed].any()) or at == last[span.row]
            selections.append(_selection(index, span, quota, keeps[index], stays, earlier))
        host = Cut.keeping(stays)
        return Decision(host.on(hidden.device), host, keeps, rows, selections, clock.stop())

    def _keeps(
        self, start: int, hidden: Tensor, prompt: Prompt, seen: Mapping[Need, list[Tensor]], earlier: list[Selection]
    ) -> tuple[list[Keep], list[Tensor]]:
        """Choose for all images at once; an image that stays whole is not asked about. -> decisions, rows on the CPU"""
        found: dict[int, tuple[Keep, Tensor]] = {}
        asked: list[int] = []
        cues: list[Cues] = []
        budgets: list[int | PerFrame] = []
        text: dict[int, Tensor] = {}
        for index, (span, quota) in enumerate(zip(prompt.spans, self.quotas[start], strict=True)):
            n, row = span.image.n, span.row
            if min(quota.k, n) == n:
                found[index] = Keep.everything(n, hidden.device), torch.arange(n, device="cpu")
                continue
            if row not in text:
                text[row] = hidden[row][send(prompt.text_of(row), hidden.device)]
            original = earlier[index].keep if earlier else None
            more = {need: _left(need, values[index].to(hidden.device), original) for need, values in seen.items()}
            asked.append(index)
            cues.append(self._cues(index, hidden[row], text[row], prompt, quota, original, more))
            budgets.append(quota.asked)
        found |= zip(asked, select_with_rows(self.policy.method, cues, budgets), strict=True)
        every = [found[index] for index in range(len(found))]
        return [keep for keep, _ in every], [rows for _, rows in every]

    def _cues(
        self,
        index: int,
        states: Tensor,
        text: Tensor,
        prompt: Prompt,
        quota: Quota,
        original: Keep | None,
        more: dict[Need, Tensor],
    ) -> Cues:
        """Build the cues of one image at this place. `text`: its prompt's. (q, d), (m, d) -> Cues"""
        span, device = prompt.spans[index], states.device
        relevance = None if quota.relevance is None else send(quota.relevance, device)
        if relevance is not None and original is not None:
            relevance = relevance[original.rows]
        ours = _is_ours(self.policy.method)
        return Cues(
            features=_rows(states, span.columns, copied=not ours),
            text=text if ours else text.clone(),
            question=self.questions[index],
            grid=span.image.grid,
            norm=None if self.norm is None else self.norm.to(device),
            protect=_protected(quota, original, device),
            relevance=relevance,
            more=more,
        )


def _is_ours(method: Method) -> bool:
    """True if the library's tests hold what the method promises: `reads` is complete, and it writes into no cue."""
    return type(method).__module__.startswith("greedyprune.methods.")


def _rows(states: Tensor, columns: Tensor, *, copied: bool) -> Tensor:
    """Take the rows at these columns, ascending and on the CPU. Without gaps they are a view, unless `copied`.

    (q, d), (n,) -> (n, d)
    """
    start, n = int(columns[0]), columns.numel()
    if not copied and int(columns[-1]) - start == n - 1:
        return states[start : start + n]
    return states[send(columns, states.device)]


def _left(need: Need, values: Tensor, original: Keep | None) -> Tensor:
    """Cut a cue to the tokens that an earlier cut kept. Text always stays. (n, ...) -> (k, ...)"""
    if original is None or (isinstance(need, Keys) and need.of == "text"):
        return values
    return values[original.rows.to(values.device)]


def _protected(quota: Quota, original: Keep | None, device: torch.device) -> Tensor | None:
    """Return the tokens that must stay, numbered among those that an earlier cut kept. -> (p,)"""
    if not quota.protect:
        return None
    rows = send(torch.tensor(quota.protect, device="cpu"), device)
    return rows if original is None else torch.searchsorted(original.rows, rows)


def _selection(
    index: int, span: Span, quota: Quota, chosen: Keep, stays: Tensor, earlier: list[Selection]
) -> Selection:
    """Express the choice in the image's original visual tokens. `stays` (b, q) bool: True for columns that stay."""
    if earlier:
        first = earlier[index]
        breaks = tuple(b for b, (at, _) in zip(first.breaks, span.breaks, strict=True) if stays[span.row, at])
        return replace(first, budget=quota.budget, keep=chosen.of(first.keep), breaks=breaks)
    structure = tuple(place for place, _, _ in span.image.breaks)
    breaks = tuple(place for (at, _), place in zip(span.breaks, structure, strict=True) if stays[span.row, at])
    return Selection(index, span.row, span.image.grid, quota.budget, chosen, breaks, span.image.kind, structure)


def with_layers(selections: list[Selection], steps: Sequence[Step | None]) -> list[Selection]:
    """Add to each selection the number of its tokens in each decoder layer. `steps`: the last cut before each layer."""
    return [
        replace(one, per_layer=tuple([one.n if step is None else step.kept[i] for step in steps]))
        for i, one in enumerate(selections)
    ]


def tower_cues(
    policy: Policy, parts: Parts, prompt: Prompt, seen: Mapping[str, Mapping[Seen, Tensor]]
) -> dict[Need, list[Tensor]]:
    """Return the method's needs of the vision tower, per image. Raises ValueError if the features came without them.

    `seen`: the values that the hooks read in the tower, for each kind of input, one row per visual token.
    """
    found: dict[Need, list[Tensor]] = {}
    for need in in_tower(policy):
        found[need] = [span.columns.new_empty(0) for span in prompt.spans]
        for kind in dict.fromkeys(span.image.kind for span in prompt.spans):
            numbers = [number for number, span in enumerate(prompt.spans) if span.image.kind == kind]
            mine = [prompt.spans[number] for number in numbers]
            rows = seen.get(kind, {}).get(placed(parts, need))
            values = None if rows is None else _by_image(rows, [s.row for s in mine], [s.image for s in mine])
            if values is None:
                why = "pass pixel_values, or compute the features while the model is pruned"
                if kind == "video" and parts.family.tower is not None and parts.family.tower.packs:
                    why = "videos of such a model are pooled behind the tower, so use a method that does not look there"
                raise ValueError(
                    f"{type(policy.method).__name__} needs {told(need)}, and the {kind} features of this call "
                    f"came without it: {why}."
                )
            for number, value in zip(numbers, values, strict=True):
                found[need][number] = value
    return found


def _by_image(seen: Tensor, rows: list[int], images: list[ImageTokens]) -> list[Tensor] | None:
    """Split the tower's values by image; None if they do not belong to these images. `rows`: each image's prompt.

    Beams and several returned sequences repeat every prompt and its images, but the tower runs once.
    """
    total = sum(image.n for image in images)
    times = max(total // max(seen.shape[0], 1), 1)
    first: dict[tuple[int, int], int] = {}
    places = [first.setdefault((row // times, rows[:i].count(row)), len(first)) for i, row in enumerate(rows)]
    lengths = [images[places.index(place)].n for place in range(len(first))]
    if sum(lengths) != seen.shape[0] or any(lengths[p] != i.n for p, i in zip(places, images, strict=True)):
        return None
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    return [seen[starts[place] : starts[place] + lengths[place]] for place in places]


def warn_if_nothing_pruned(policy: Policy, selections: list[Selection]) -> None:
    """Warn if all images keep all tokens although the share is below 1, or although `keep` is more than there are."""
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
