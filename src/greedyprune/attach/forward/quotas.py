"""Quotas: the number of tokens that stay of each image. Each forward resolves them once from policy and hints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import TYPE_CHECKING, assert_never

from torch import Tensor

from greedyprune.budget import Budget, LayerAverage, PerFrame, PerLayer, Ratio, Total, count

if TYPE_CHECKING:
    from greedyprune.hints import Hints
    from greedyprune.method import Method
    from greedyprune.models._family import ImageTokens
    from greedyprune.models.prompt import Prompt, Span
    from greedyprune.policy import Policy


@dataclass(frozen=True)
class Quota:
    """The tokens that one cut may keep of one image."""

    budget: Budget
    """The budget as the user wrote it, for messages and reports."""
    k: int
    """The number of the image's original tokens that stay."""
    frames: int = 1
    """The number of frames. They have equal sizes and follow each other."""
    protect: tuple[int, ...] = ()
    """The tokens that must stay, in the image's original numbering."""
    relevance: Tensor | None = field(default=None, compare=False)
    """(n,) the user's own relevance of the image's original tokens; None if the user gave none."""

    @property
    def asked(self) -> int | PerFrame:
        """The budget that `select` gets: the number of tokens, or the budget itself if it splits the image."""
        if isinstance(self.budget, PerFrame):
            return self.budget
        if isinstance(self.budget, (int, Ratio)):  # pyright: ignore[reportUnnecessaryIsInstance] - for budgets to come
            return self.k  # a later cut still keeps its share of all tokens, not of what is left
        assert_never(self.budget)


def quotas(policy: Policy, hints: Hints, depth: int, spans: list[Span], embeds: Tensor) -> dict[int, list[Quota]]:
    """Resolve one quota per image, for the cut before each decoder layer.

    `embeds` (b, q, d): the merged embeddings. `depth`: the number of decoder layers. Raises ValueError if a list with
    one entry per image does not fit the call's images.
    """
    rows, images = [span.row for span in spans], [span.image for span in spans]
    protect: list[tuple[int, ...]] = [()] * len(rows)
    if hints.protect:
        what = f"protect has {len(hints.protect)} lists"
        protect = [hints.protect[place] for place in _places(len(hints.protect), rows, embeds, what)]
    relevance: list[Tensor | None] = [None] * len(rows)
    if hints.relevance:
        what = f"relevance has {len(hints.relevance)} entries"
        relevance = [hints.relevance[place] for place in _places(len(hints.relevance), rows, embeds, what)]
    given = _given(policy, rows, [image.n for image in images], embeds)
    budgets = [_budgets(policy, depth, keep, image.n) for keep, image in zip(given, images, strict=True)]
    found: dict[int, list[Quota]] = {}
    for cut, start in enumerate(policy.starts or [0]):
        found[start] = [
            _quota(number, budgets[number][cut], protect[number], relevance[number], image)
            for number, image in enumerate(images)
        ]
    return found


def _quota(
    number: int, budget: Budget, protect: tuple[int, ...], relevance: Tensor | None, image: ImageTokens
) -> Quota:
    frames = 1 if image.grid is None else image.grid[0]
    k = budget.of(image.n, frames) if isinstance(budget, PerFrame) else count(budget, image.n)
    quota = Quota(budget, min(k, image.n), frames, protect, relevance)
    _check(number, quota, image)
    return quota


def _given(
    policy: Policy, rows: list[int], sizes: list[int], embeds: Tensor
) -> Sequence[Budget | LayerAverage | PerLayer]:
    """Return the budget of each image. `rows`: each image's prompt. `sizes`: its visual tokens. `embeds` (b, q, d)"""
    if isinstance(policy.keep, Total):
        mine = {row: [n for n, other in zip(sizes, rows, strict=True) if other == row] for row in rows}
        shares = {row: iter(policy.keep.share(each)) for row, each in mine.items()}
        return [next(shares[row]) for row in rows]
    if isinstance(policy.keep, tuple):
        places = _places(len(policy.keep), rows, embeds, f"keep has {len(policy.keep)} budgets")
        return [policy.keep[place] for place in places]
    return [policy.keep] * len(rows)


def _budgets(policy: Policy, depth: int, last: Budget | LayerAverage | PerLayer, n: int) -> list[Budget]:
    """Return the budget of each cut for an image of n tokens. `last` is the budget of the last cut."""
    if isinstance(last, PerLayer):
        return list(last.schedule.values())
    if isinstance(last, PerFrame):
        return [last]
    starts = policy.starts or [0]

    def counts(k: int) -> list[int]:
        return policy.method.counts(k, n, len(starts)) if len(starts) > 1 else [k]

    if isinstance(last, LayerAverage):
        last = last.solve(n, starts, depth, counts)
    return [*map(index, counts(count(last, n))[:-1]), last]  # a method of one's own may count in other integers


def keep_last_tokens(found: dict[int, list[Quota]], prompt: Prompt, method: Method) -> dict[int, list[Quota]]:
    """Protect the last token of each prompt if it is visual, since the model predicts the next token from it.

    Raises ValueError if the method merges tokens, or if the budget keeps too few.
    """
    last = prompt.last
    ends = [number for number, span in enumerate(prompt.spans) if span.image.n and last[span.row] == span.columns[-1]]
    for number in ends:
        why = f"prompt {prompt.spans[number].row} ends with an image, whose last token must stay to predict the next"
        if method.merges:
            raise ValueError(f"{why}, and {type(method).__name__} merges tokens: put text after the image.")
        for each in found.values():
            quota, n = each[number], prompt.spans[number].image.n
            if not quota.k:
                raise ValueError(f"{why}, and the budget keeps 0: raise keep, or put text after the image.")
            if len({*quota.protect, n - 1}) > quota.k:
                raise ValueError(f"{why}, and with those of protect it is more than the budget keeps: raise keep.")
            each[number] = replace(quota, protect=tuple(sorted({*quota.protect, n - 1})))
            _check(number, each[number], prompt.spans[number].image)
    return found


def _check(number: int, quota: Quota, image: ImageTokens) -> None:
    """Raise ValueError if the hints for an image do not fit its tokens or its budget."""
    n = image.n
    if isinstance(quota.budget, PerFrame) and image.kind == "video" and image.grid is None:
        raise ValueError(
            f"keep={quota.budget!r}: the frames of video {number} are not known, since its {n} visual tokens lie on no "
            "grid (t, h, w): give the budget of the whole clip, an int or Ratio(0.25)."
        )
    if quota.protect and quota.protect[-1] >= n:
        raise ValueError(
            f"protect holds token {quota.protect[-1]} of image {number}, which has {n} visual tokens: "
            f"write numbers from 0 to {n - 1}."
        )
    if quota.relevance is not None and quota.relevance.shape != (n,):
        raise ValueError(
            f"relevance of image {number} has shape {tuple(quota.relevance.shape)}, the image has {n} visual tokens: "
            f"give ({n},), one number for each in their order."
        )
    k = quota.k
    if len(quota.protect) > k:
        raise ValueError(
            f"protect holds {len(quota.protect)} tokens of image {number} and the budget keeps {k}: "
            "raise keep, or protect fewer."
        )
    if isinstance(quota.budget, PerFrame):
        share, size = k // quota.frames, n // quota.frames
        for frame, held in Counter(place // size for place in quota.protect).items():
            if held > share:
                raise ValueError(
                    f"protect holds {held} tokens of frame {frame} of image {number} and the budget keeps {share} of a "
                    "frame: raise keep, or protect fewer."
                )


def _places(given: int, rows: list[int], embeds: Tensor, what: str) -> list[int]:
    """Match each image of the batch to one of the `given` values of the user's list. `rows`: each image's prompt.

    `generate` copies each prompt once per beam or returned sequence. Copies have equal embeddings. `embeds` (b, q, d)
    """
    times = len(rows) // given
    once = [image for image, row in enumerate(rows) if times and row % times == 0]
    if times * given != len(rows) or len(once) != given or not _repeats(embeds, times):
        raise ValueError(f"{what}, and the call has {len(rows)} images: give one for each.")
    place = {image: n for n, image in enumerate(once)}
    places: list[int] = []
    for image, row in enumerate(rows):
        first, mine = rows.index(row), rows.index(row - row % times)
        places.append(place[mine + image - first])
    return places


def _repeats(embeds: Tensor, times: int) -> bool:
    """True if the batch holds every prompt `times` times in a row. (b, q, d) -> bool"""
    if times == 1:
        return True
    if embeds.shape[0] % times:
        return False
    groups: Tensor = embeds.reshape(-1, times, *embeds.shape[1:])
    return bool((groups - groups[:, :1]).abs().max() <= 1e-2 * embeds.abs().max())
