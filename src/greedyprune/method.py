"""Method: the base of every pruning method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from greedyprune.budget import PerFrame
from greedyprune.stages import Depths, Input, Layer, Layers, Stage

if TYPE_CHECKING:
    from greedyprune.cues import Cues, Need
    from greedyprune.keep import Keep


@dataclass(frozen=True, kw_only=True)
class Method:
    """A pruning method: a frozen dataclass whose fields are its knobs and whose `select` picks the rows that stay.

    It sees one image and no model. `select` is called with checked, finite cues and 0 < k <= n; it returns exactly k
    rows, or, where `exact` is False, at most k, on the device of the cues: see `Keep.from_order`. What it reads beyond
    the features it lists in `needs`, such as `(Text(), Attention("cls"))`.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    stages: ClassVar[tuple[type[Stage], ...]] = (Input, Layer, Layers, Depths)
    equivariant: ClassVar[bool] = True
    """Whether permuting the tokens permutes the selection (False where places, lots or natural ties decide)."""
    merges: ClassVar[bool] = False
    """Whether kept rows are means of several tokens, which cannot protect any."""
    compares_frames: ClassVar[bool] = False
    """Whether it compares the frames of a clip, so that one frame alone says nothing to it."""

    weighs_relevance: ClassVar[bool] = False
    """Whether it weighs `cues.relevance` where that is given."""
    reads_tokens: ClassVar[bool] = True
    """Whether it looks at the tokens' own rows, `cues.features`, and not only at attention, keys or the grid."""

    at: Stage = Input()
    """Where tokens are cut unless the call says otherwise: the method's published stage."""

    @property
    def exact(self) -> bool:
        """Whether it returns exactly min(k, n) rows."""
        return True

    def select(self, cues: Cues, k: int) -> Keep:
        """The k rows that stay. (n, d) -> Keep"""
        raise NotImplementedError

    def select_batch(self, cues: Sequence[Cues], k: Sequence[int]) -> list[Keep]:
        """The rows that stay of several images, as `select` chooses them one by one. Override it to run them at once.

        It is called as `select` is: with checked cues and 0 < k <= n for each, without gradients.
        """
        return [self.select(each, count) for each, count in zip(cues, k, strict=True)]

    def kept(self, k: int, n: int, grid: tuple[int, int, int] | None) -> int | None:
        """How many of n tokens on a grid stay where k are asked for, 0 < k <= n; None if only a run can say."""
        return k if self.exact else None

    @property
    def reads(self) -> frozenset[str]:
        """What the selection depends on, beside the number of tokens: a cache key must hold all of it.

        The words, each with the field of `Cues` that it is about:

        - "tokens": the tokens' own rows, `features`;
        - "text": all text rows, `text`; "question": those of the question alone; "last_text": the last one alone;
        - "grid", "tiles", "norm", "relevance", "protect": the fields of that name;
        - "attention", "keys", "encoded": the fields of that name, or what stands for them in `more`;
        - "text_keys": keys of the text, in `more`.

        They follow from `needs`; a method whose `select` looks at an optional cue, or at a part of the text alone,
        overrides this. `greedyprune.testing.check_method` finds a word that is missing.

            GreedyPrune().reads    # {"tokens", "last_text", "protect"}
        """
        words = {need.word for need in self.needs}
        words |= {"tokens"} if self.reads_tokens else set()
        words |= {"relevance"} if self.weighs_relevance else set()
        return frozenset(words | (set() if self.merges else {"protect"}))

    def counts(self, k: int, n: int, cuts: int) -> list[int]:
        """How many of n tokens stay after each of several cuts so that k stay after the last: geometrically fewer."""
        shares = [(k / n) ** ((cut + 1) / cuts) if n else 0.0 for cut in range(cuts)]
        return [max(k, min(n, math.floor(n * share + 0.5))) for share in shares[:-1]] + [k]

    def check_stage(self, stage: Stage) -> None:
        """Raise unless this method may run at that stage."""
        if not isinstance(stage, Stage):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"{type(self).__name__} cannot run at {stage!r}, which is no stage: write Input(), Layer(2), "
                "Layers((8, 16)) or Depths((0.25, 0.5))."
            )
        if not isinstance(stage, self.stages):
            places = ", ".join(place.__name__ for place in self.stages)
            raise ValueError(f"{type(self).__name__} cannot run at {stage!r}: it runs at {places}.")

    def check_frames(self, keep: PerFrame) -> None:
        """Raise unless this method can choose from one frame of a clip at a time."""
        if self.compares_frames:
            raise ValueError(
                f"{type(self).__name__} compares the frames of a clip, so it cannot choose with {keep!r} from "
                "one frame at a time: give the budget of the whole clip, an int or Ratio(0.25)."
            )
