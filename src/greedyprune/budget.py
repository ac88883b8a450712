"""Budgets: the number of visual tokens to keep. The type of a budget says its unit."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsIndex, TypeAlias, cast

from greedyprune.shown import shown


@dataclass(frozen=True)
class Ratio:
    """Keep this share of an image's n visual tokens: floor(share * n + 1/2), at least 1 if share > 0.

        Ratio(0.25)     # keeps 144 of 576

    Raises TypeError or ValueError if the share is no number from 0 to 1.
    """

    share: float

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Ratio({shown(self.share)}): the share kept is a number between 0 and 1.")
        if not 0 <= self.share <= 1:
            raise ValueError(
                f"Ratio({shown(self.share)}): the share kept lies between 0 and 1, Ratio(0.25) keeps a quarter."
            )

    def of(self, n: int) -> int:
        """The number of tokens that are this share of n."""
        return max(math.floor(self.share * n + 0.5), 1 if self.share > 0 and n > 0 else 0)

    def __str__(self) -> str:
        return f"{100 * self.share:.4g}%"


@dataclass(frozen=True)
class PerFrame:
    """Keep this number (int) or share (`Ratio`) of every frame's visual tokens. The method sees one frame at a time.

        PerFrame(8)             # 8 tokens of every frame
        PerFrame(Ratio(0.25))   # a quarter of every frame

    An image is one frame, and so is a sound. A plain int or Ratio is the budget of a whole clip.
    """

    tokens: int | Ratio

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", as_budget(self.tokens))

    def of(self, n: int, frames: int) -> int:
        """The number of tokens that stay, of n tokens in `frames` equal frames."""
        return frames * count(self.tokens, n // frames)

    def __str__(self) -> str:
        return f"{self.tokens}/frame"


Budget: TypeAlias = int | Ratio | PerFrame


@dataclass(frozen=True)
class PerLayer:
    """Keep fewer tokens at each of several cuts.

        PerLayer({8: Ratio(0.5), 16: Ratio(0.25)})      # cuts before decoder layers 8 and 16

    A key is the number of decoder layers that run before that cut. Shares are of the image's original n.
    """

    schedule: Mapping[int, Budget]

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Mapping) or not self.schedule:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"PerLayer({shown(self.schedule)}): write a dict from decoder layers to budgets, {{8: Ratio(0.5)}}."
            )
        for index in self.schedule:
            if isinstance(index, bool) or not isinstance(index, int) or index < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ValueError(f"PerLayer: {shown(index)} is no decoder layer to cut before, write 1 or more.")
        checked = {index: as_budget(budget) for index, budget in sorted(self.schedule.items())}
        object.__setattr__(self, "schedule", checked)

    def __hash__(self) -> int:
        return hash(tuple(self.schedule.items()))

    def __str__(self) -> str:
        return ", ".join(f"layer:{index} {budget}" for index, budget in self.schedule.items())


@dataclass(frozen=True)
class LayerAverage:
    """Keep this number of visual tokens per decoder layer on average. Several papers call this average their budget.

        LayerAverage(64)    # at Layer(2) of 32 layers: 30 of 576 tokens stay

    Layers before a cut see all n tokens, so that cut leaves 30 tokens: (2 * 576 + 30 * 30) / 32 = 64. With several
    cuts, the last count is the largest one that fits the average.
    """

    tokens: Budget

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", as_budget(self.tokens))

    def solve(self, n: int, starts: Sequence[int], depth: int, counts: Callable[[int], list[int]]) -> int:
        """The largest count after the last cut whose average is within this budget. It is 1 or more if n is.

        `starts` are the decoder layers that a cut precedes. `counts(k)` returns the number that stay after each cut.
        Raises ValueError if the layers before the first cut alone exceed the budget.
        """
        target, ends = count(self.tokens, n), [*starts[1:], depth]

        def average(k: int) -> float:
            behind = sum(c * (end - start) for c, start, end in zip(counts(k), starts, ends, strict=True))
            return (n * starts[0] + behind) / depth

        least, most = min(1, n), n
        if average(least) > target:
            raise ValueError(
                f"keep={self}: layers before the cut see all {n} tokens of an image, so the average over {depth} "
                f"layers is {average(least):.1f} or more: ask for more, or cut earlier."
            )
        while least < most:
            k = (least + most + 1) // 2
            least, most = (k, most) if average(k) <= target else (least, k - 1)
        return least

    def __str__(self) -> str:
        return f"{self.tokens} per layer"


@dataclass(frozen=True)
class Total:
    """Keep this number of visual tokens per prompt. Its images share them, and each keeps at least `floor`.

        Total(64)               # of images with 576 and 64 tokens: 57 and 7
        Total(64, floor=16)     # 16 tokens or more of each image

    An image with fewer than `floor` tokens keeps all. The floors come first. The rest is divided in proportion to the
    images' sizes; the largest remainders are rounded up, and the earlier image wins a tie.
    """

    tokens: int
    floor: int = 1

    def __post_init__(self) -> None:
        for name, value in (("tokens", self.tokens), ("floor", self.floor)):
            if isinstance(value, bool) or not isinstance(value, int):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"Total: {name}={shown(value)} is no number of visual tokens: write an int.")
            if value < 0:
                raise ValueError(f"Total: {name}={value} cannot be negative: write 0 or more.")

    def share(self, sizes: Sequence[int]) -> list[int]:
        """The number of tokens that each image of one prompt keeps: min(tokens, n of all) in total.

        (images) -> (images). Raises ValueError if the floors need more than `tokens`.
        """
        least = [min(self.floor, n) for n in sizes]
        if self.tokens < sum(least):
            raise ValueError(
                f"keep={self} is too little for a prompt whose images have {', '.join(map(str, sizes))} visual tokens: "
                f"the floor of {self.floor} takes {sum(least)} of them. Raise tokens, or lower floor."
            )
        if self.tokens >= sum(sizes):
            return list(sizes)
        rest, open_to = self.tokens - sum(least), list(range(len(sizes)))
        while True:  # tokens that a full image cannot take go to the others, again in proportion
            weight = sum(sizes[i] for i in open_to)
            full = [i for i in open_to if rest * sizes[i] > (sizes[i] - least[i]) * weight]
            if not full:
                break
            rest -= sum(sizes[i] - least[i] for i in full)
            least = [sizes[i] if i in full else k for i, k in enumerate(least)]
            open_to = [i for i in open_to if i not in full]
        kept = [k + (rest * sizes[i] // weight if i in open_to else 0) for i, k in enumerate(least)]
        by_remainder = sorted(open_to, key=lambda i: -(rest * sizes[i] % weight))
        for i in by_remainder[: self.tokens - sum(kept)]:
            kept[i] += 1
        return kept

    def __str__(self) -> str:
        return f"{self.tokens} total" + (f" (floor {self.floor})" if self.floor != 1 else "")


Budgets: TypeAlias = Budget | LayerAverage | Total | tuple[Budget | LayerAverage, ...] | PerLayer


def as_budget(keep: object) -> int | Ratio:
    """Check the budget of one image: an int is a number of tokens, a `Ratio` a share of them."""
    if isinstance(keep, Ratio):
        return keep
    if isinstance(keep, Total):
        raise TypeError(
            f"keep={shown(keep)} is shared between the images of a prompt: for one image write an int or Ratio(0.25). "
            "prune() takes Total as its whole keep."
        )
    if isinstance(keep, PerFrame):
        raise TypeError(
            f"keep={shown(keep)} is a budget per frame of a clip: here write an int or Ratio(0.25). "
            "prune() takes PerFrame as keep, or in its list."
        )
    if isinstance(keep, (LayerAverage, PerLayer)):
        raise TypeError(f"keep={shown(keep)} is about the layers of a model: here write an int or Ratio(0.25).")
    if isinstance(keep, float):
        raise TypeError(
            f"keep={shown(keep)} is ambiguous: write Ratio({shown(keep)}) to keep that share, or an int to keep that "
            "many tokens."
        )
    try:
        if isinstance(keep, bool) or not isinstance(keep, SupportsIndex):
            raise TypeError
        tokens = operator.index(keep)
    except TypeError:
        raise TypeError(
            f"keep={shown(keep)} is no budget: write an int (tokens kept per image), Ratio(0.25), "
            "or for a whole prompt of prune() Total(64)."
        ) from None
    if tokens < 0:
        raise ValueError(f"keep={tokens}: the number of visual tokens kept cannot be negative, write 0 or more.")
    return tokens


def as_budgets(keep: object) -> Budgets:
    """Check a user's `keep`: one budget for every image, a list with one per image, `PerLayer` or `Total`."""
    if isinstance(keep, (PerLayer, PerFrame, LayerAverage, Total)):
        return keep
    if isinstance(keep, Sequence) and not isinstance(keep, (str, bytes)):
        if not keep:
            raise ValueError("keep=[] holds no budget: give one per image, or one budget for all images.")
        items = cast("Sequence[object]", keep)
        return tuple(item if isinstance(item, (PerFrame, LayerAverage)) else as_budget(item) for item in items)
    return as_budget(keep)


def counts_tokens(keep: Budgets) -> bool:
    """True if a budget is one number of tokens, above 0, for every image: no share, no list and no `Total`."""
    parts = list(keep.schedule.values()) if isinstance(keep, PerLayer) else [keep]
    tokens = [part.tokens if isinstance(part, (PerFrame, LayerAverage)) else part for part in parts]
    return any(isinstance(number, int) and number > 0 for number in tokens)


def count(budget: Budget | Total, n: int) -> int:
    """The number of n tokens that a budget keeps, never more than n.

        count(Ratio(0.25), 576)     # 144

    Raises TypeError if the budget is not that of one image (`Total`, `PerFrame`).
    """
    if isinstance(budget, Total):
        raise TypeError(
            f"keep={shown(budget)} is shared between images, so {n} tokens of one image do not say how many stay: "
            "Total.share(sizes) says it for all images of a prompt."
        )
    if isinstance(budget, PerFrame):
        raise TypeError(
            f"keep={shown(budget)} is that of one frame, so {n} tokens do not say how many stay: "
            "PerFrame.of(n, frames) says it for a clip."
        )
    return min(budget.of(n) if isinstance(budget, Ratio) else budget, n)


def parse_budgets(text: str) -> Budgets:
    """Read a budget's text: as `parse_budget`, and `64 per layer` and `layer:8 50%, layer:16 25%`, as they print."""
    word = text.strip().lower()
    if word.endswith(" per layer"):
        inner = parse_budget(word.removesuffix(" per layer"))
        return LayerAverage(as_budget(inner) if isinstance(inner, Total) else inner)
    if word.startswith("layer:"):
        parts = [re.fullmatch(r"layer:(\d{1,9}) (\S+)", part.strip()) for part in word.split(",")]
        cuts = [(int(part[1]), parse_budget(part[2])) for part in parts if part]
        if len(cuts) < len(parts) or len(dict(cuts)) < len(cuts):
            raise ValueError(f"{shown(text)} is no budget: write every cut once, as in layer:8 50%, layer:16 25%.")
        return PerLayer(cast("dict[int, Budget]", dict(cuts)))
    return parse_budget(text)


_TOTALS = (r"(\d{1,9}) total(?: \(floor (\d{1,9})\))?", r"total:(\d{1,9})(?::(\d{1,9}))?")


def parse_budget(text: str) -> Budget | Total:
    """Read a budget of the command line: `64` (tokens), `25%` or `1/4` (a share), `8/frame` or `total:64` (per prompt).

    `25%/frame` is a share of every frame. `total:64:8` leaves 8 or more of every image. It prints as
    `64 total (floor 8)`, and this text is read too.
    """
    word = text.strip()
    for pattern in _TOTALS:
        if found := re.fullmatch(pattern, word.lower()):
            return Total(int(found[1]), int(found[2] or 1))
    plain = word.lower().removesuffix("/frame")
    try:
        budget = _share(plain) or as_budget(int(plain))
        return budget if plain == word.lower() else PerFrame(budget)
    except ValueError as error:
        raise ValueError(
            f"{shown(text)} is no budget: write 64 for 64 visual tokens, or 25% or 1/4 for that share, or total:64 for "
            "64 that the images of a prompt share, or 8/frame for 8 of every frame of a clip, or '64 per layer' for "
            "an average."
        ) from error


def _share(word: str) -> Ratio | None:
    """Read `25%` or `1/4`; None if it is neither. Raises ValueError if the share is not between 0 and 1."""
    if word.endswith("%"):
        return Ratio(float(word[:-1]) / 100)
    found = re.fullmatch(r"(\d{1,9})/([1-9]\d{0,8})", word)
    return Ratio(int(found[1]) / int(found[2])) if found else None


DETAIL: dict[str, Budget] = {"low": 64, "auto": Ratio(0.25), "high": Ratio(1.0)}
"""The budget for each `detail` of an image in OpenAI's interface.

"low" costs the same for every image, as it does there: 64 tokens, a ninth of LLaVA-1.5's 576. "high" keeps everything.
"auto", the default there, keeps a quarter of each image.
"""


def keep_of_detail(detail: str | None) -> Budget:
    """The budget for an image whose `detail` is "low", "high" or "auto". None means "auto".

        keep_of_detail("low")     # 64

    Raises ValueError for anything else.
    """
    if detail is None:
        return DETAIL["auto"]
    if detail not in DETAIL:
        raise ValueError(f"detail={shown(detail)} is unknown: choose one of {', '.join(DETAIL)}.")
    return DETAIL[detail]
