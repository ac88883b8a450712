"""What the user asked for: the policy of a handle or of one call, and what it comes to for each image of a call."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeAlias, cast

from torch import Tensor

from greedyprune.budget import Budget, Budgets, LayerAverage, PerFrame, PerLayer, Total, count
from greedyprune.cues import Text
from greedyprune.method import Method
from greedyprune.stages import Layer, Layers, Stage

if TYPE_CHECKING:
    from greedyprune.attach.decide import Prompt, Span
    from greedyprune.models._family import ImageTokens

Positions = Literal["original", "compact"]

Relevance: TypeAlias = tuple[Tensor | None, ...]
"""Per image of a call how relevant each token is to the question, by a model of the user's own; None where unsaid."""

Protect: TypeAlias = tuple[tuple[int, ...], ...]
"""Per image of a call the tokens that must be kept; empty where nothing is protected."""


@dataclass(frozen=True)
class Ask:
    """What is asked for of one image at one cut."""

    budget: Budget
    protect: tuple[int, ...] = ()
    """In the image's original visual tokens."""
    relevance: Tensor | None = field(default=None, compare=False)
    """(n,) of the image's original visual tokens."""
    frames: int = 1
    """How many equal frames the image has, one after the other."""

    def count(self, n: int) -> int:
        """How many of the image's n tokens stay."""
        return self.budget.of(n, self.frames) if isinstance(self.budget, PerFrame) else count(self.budget, n)


@dataclass(frozen=True)
class Policy:
    """A method, a budget, the place of the cut, what positions kept tokens have, and what must be kept."""

    method: Method
    keep: Budgets
    at: Stage
    positions: Positions = "original"
    protect: Protect = ()

    depth: int = 0
    """How many decoder layers the model has."""
    relevance: Relevance = field(default=(), compare=False)

    def __post_init__(self) -> None:
        given = self.keep if isinstance(self.keep, tuple) else (self.keep,)
        mine = next((budget for budget in given if isinstance(budget, PerFrame)), None)
        if mine is None:
            return
        if len(self.starts) > 1:
            raise ValueError(
                f"keep={mine!r} is what one cut leaves of a frame, and {self.place!r} cuts several times: "
                "use at=Input() or one Layer(l), or give the budget of a whole clip, an int or Ratio(0.25)."
            )
        if self.method.compares_frames:
            raise ValueError(
                f"{type(self.method).__name__} compares the frames of a clip, so it cannot choose with {mine!r} from "
                "one frame at a time: give the budget of the whole clip, an int or Ratio(0.25)."
            )

    @property
    def place(self) -> str:
        """Where this cuts, as text."""
        return str(Layers(tuple(self.keep.schedule)) if isinstance(self.keep, PerLayer) else self.at)

    @property
    def starts(self) -> list[int]:
        """The decoder layers before which tokens leave; empty if they leave before the decoder."""
        if isinstance(self.keep, PerLayer):
            return list(self.keep.schedule)
        if isinstance(self.at, Layers):
            return list(self.at.indices)
        return [self.at.index] if isinstance(self.at, Layer) else []

    @property
    def early(self) -> bool:
        """Whether caches of layers before the cut are cut too."""
        return isinstance(self.at, Layer) and self.at.early and not isinstance(self.keep, PerLayer)

    def asked(self, spans: list[Span], embeds: Tensor) -> dict[int, list[Ask]]:
        """For the cut before each decoder layer, what is asked for of each image of a call. (b, q, d) -> ...

        Raises where what was given per image does not fit the call's images.
        """
        rows, images = [span.row for span in spans], [span.image for span in spans]
        given: list[tuple[int, ...]] = [()] * len(rows)
        if self.protect:
            what = f"protect has {len(self.protect)} lists"
            given = [self.protect[place] for place in _places(len(self.protect), rows, embeds, what)]
        told: Relevance = (None,) * len(rows)
        if self.relevance:
            what = f"relevance has {len(self.relevance)} entries"
            told = tuple(self.relevance[place] for place in _places(len(self.relevance), rows, embeds, what))
        known = list(zip(given, told, strict=True))
        asks: dict[int, list[Ask]] = {}
        kept = self._kept(rows, [image.n for image in images], embeds)
        budgets = [self._budgets(keep, image.n) for keep, image in zip(kept, images, strict=True)]
        for cut, start in enumerate(self.starts or [0]):
            asks[start] = [
                Ask(each[cut], *more, frames=1 if image.grid is None else image.grid[0])
                for each, more, image in zip(budgets, known, images, strict=True)
            ]
            for number, (ask, image) in enumerate(zip(asks[start], images, strict=True)):
                _check(number, ask, image)
        return asks

    def _kept(self, rows: list[int], sizes: list[int], embeds: Tensor) -> Sequence[Budget | LayerAverage | PerLayer]:
        """How much is kept of each image of a call, which have these prompts and sizes. (b, q, d) -> (images)"""
        if isinstance(self.keep, Total):
            mine = {row: [n for n, other in zip(sizes, rows, strict=True) if other == row] for row in rows}
            shares = {row: iter(self.keep.share(each)) for row, each in mine.items()}
            return [next(shares[row]) for row in rows]
        if isinstance(self.keep, tuple):
            places = _places(len(self.keep), rows, embeds, f"keep has {len(self.keep)} budgets")
            return [self.keep[place] for place in places]
        return [self.keep] * len(rows)

    def _budgets(self, last: Budget | LayerAverage | PerLayer, n: int) -> list[Budget]:
        """How much of an image of n tokens is kept by each cut."""
        if isinstance(last, PerLayer):
            return list(last.schedule.values())
        if isinstance(last, PerFrame):
            return [last]
        starts = self.starts or [0]

        def counts(k: int) -> list[int]:
            return self.method.counts(k, n, len(starts)) if len(starts) > 1 else [k]

        if isinstance(last, LayerAverage):
            last = last.solve(n, starts, self.depth, counts)
        return [*counts(count(last, n))[:-1], last]


def keep_last(asks: dict[int, list[Ask]], prompt: Prompt, method: Method) -> dict[int, list[Ask]]:
    """What is asked for, with the last token of each prompt protected where it is visual: the next one is read off it.

    Raises where it cannot be: by a method that merges, or a budget that keeps nothing.
    """
    last = prompt.last
    ends = [number for number, span in enumerate(prompt.spans) if span.image.n and last[span.row] == span.columns[-1]]
    for number in ends:
        why = f"prompt {prompt.spans[number].row} ends with an image, whose last token must stay to read the next one"
        if method.merges:
            raise ValueError(f"{why}, and {type(method).__name__} merges tokens: put text behind the image.")
        for each in asks.values():
            ask, n = each[number], prompt.spans[number].image.n
            if not ask.count(n):
                raise ValueError(f"{why}, and the budget keeps 0: raise keep, or put text behind the image.")
            if len({*ask.protect, n - 1}) > ask.count(n):
                raise ValueError(f"{why}, beside those of protect, which is more than the budget keeps: raise keep.")
            each[number] = replace(ask, protect=tuple(sorted({*ask.protect, n - 1})))
            _check(number, each[number], prompt.spans[number].image)
    return asks


def check_text(prompt: Prompt, method: Method) -> None:
    """Raise where a method weighs an image's tokens by a prompt's text, and there is none."""
    if not any(isinstance(need, Text) for need in method.needs):
        return
    for span in prompt.spans:
        if not bool((prompt.asked[span.row] & ~prompt.visual[span.row]).any()):
            raise ValueError(
                f"prompt {span.row} holds no text, by which {type(method).__name__} weighs visual tokens: put a "
                "question into it, or use a method that reads no text, such as DivPrune()."
            )


def as_protect(protect: object) -> Protect:
    """Check `protect` as a user gives it: per image the token numbers that must be kept, None where there are none."""
    if protect is None:
        return ()
    images = protect.tolist() if isinstance(protect, Tensor) else protect
    if isinstance(images, (str, bytes)) or not isinstance(images, Sequence):
        raise TypeError(f"protect={protect!r}: write one list of token numbers per image, such as [[0, 5], None].")
    return tuple(() if given is None else _numbers(protect, given) for given in cast("Sequence[object]", images))


def as_relevance(relevance: object) -> Relevance:
    """Check `relevance` as a user gives it: per image the (n,) values of its tokens, None where there are none."""
    if relevance is None:
        return ()
    if isinstance(relevance, (str, bytes, Mapping)) or not isinstance(relevance, Sequence):
        kind = type(relevance).__name__
        raise TypeError(f"relevance is a {kind}: write a list with one (n,) tensor, or None, per image of the call.")
    found: list[Tensor | None] = []
    for each in cast("Sequence[object]", relevance):
        if each is not None and not (isinstance(each, Tensor) and each.ndim == 1 and each.is_floating_point()):
            shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise TypeError(f"relevance holds {shape}: write one floating-point (n,) tensor, or None, per image.")
        found.append(each.detach() if isinstance(each, Tensor) else None)
    return tuple(found)


def _numbers(protect: object, given: object) -> tuple[int, ...]:
    """The token numbers of one image, ascending."""
    plain: Any = given.tolist() if isinstance(given, Tensor) else given
    if isinstance(plain, (str, bytes)) or not isinstance(plain, Iterable):
        raise TypeError(
            f"protect={protect!r} does not say which image {given!r} belongs to: write one list per image of the "
            "call, for a single image [[0, 5]]."
        )
    numbers: set[int] = set()
    for number in cast("Iterable[object]", plain):
        if isinstance(number, bool) or not isinstance(number, SupportsIndex):
            raise TypeError(
                f"protect holds {number!r}, which is no token number: write ints, of a mask its mask.nonzero()[:, 0]."
            )
        if operator.index(number) < 0:
            raise ValueError(f"protect holds {number}: an image's visual tokens are counted from 0.")
        numbers.add(operator.index(number))
    return tuple(sorted(numbers))


def _check(number: int, ask: Ask, image: ImageTokens) -> None:
    """Raise where what must be kept of an image is not there, or is more than the budget keeps."""
    n = image.n
    if isinstance(ask.budget, PerFrame) and image.kind == "video" and image.grid is None:
        raise ValueError(
            f"keep={ask.budget!r}: where the frames of video {number} are is not known, its {n} visual tokens lie on "
            "no grid (t, h, w): give the budget of the whole clip, an int or Ratio(0.25)."
        )
    if ask.protect and ask.protect[-1] >= n:
        raise ValueError(
            f"protect holds token {ask.protect[-1]} of image {number}, which has {n} visual tokens: "
            f"write numbers from 0 to {n - 1}."
        )
    if ask.relevance is not None and ask.relevance.shape != (n,):
        raise ValueError(
            f"relevance of image {number} has shape {tuple(ask.relevance.shape)}, the image has {n} visual tokens: "
            f"give ({n},), one number for each in their order."
        )
    k = ask.count(n)
    if len(ask.protect) > k:
        raise ValueError(
            f"protect holds {len(ask.protect)} tokens of image {number} and the budget keeps {k}: "
            "raise keep, or protect fewer."
        )
    if isinstance(ask.budget, PerFrame):
        share, size = k // ask.frames, n // ask.frames
        for frame, held in Counter(place // size for place in ask.protect).items():
            if held > share:
                raise ValueError(
                    f"protect holds {held} tokens of frame {frame} of image {number} and the budget keeps {share} of a "
                    "frame: raise keep, or protect fewer."
                )


def _places(given: int, rows: list[int], embeds: Tensor, what: str) -> list[int]:
    """Which of the `given` values belongs to each image of a call. `rows` has each image's prompt. (b, q, d) -> ...

    Beams and several returns repeat every prompt, its images with it; a list per image repeats alike. They are known
    by their embeddings, which are those of the prompt they repeat.
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
    """Whether a batch is made of prompts that each stand there `times` times in a row. (b, q, d) -> bool"""
    if times == 1:
        return True
    if embeds.shape[0] % times:
        return False
    groups = embeds.unflatten(0, (-1, times))
    return bool((groups - groups[:, :1]).abs().max() <= 1e-2 * embeds.abs().max())
