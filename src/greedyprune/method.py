"""Method: the base of every pruning method."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, cast

from greedyprune import notebook
from greedyprune.budget import PerFrame
from greedyprune.stages import Depths, Input, Layer, Layers, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.cues import Cues, Need
    from greedyprune.keep import Keep


@dataclass(frozen=True, eq=False)
class Unread:
    """A decision on a GPU before the host has read anything of it."""

    keep: Keep
    """The decision with all rows that it may have, in the order taken. What the host knows nothing of is missing."""
    numbers: Tensor
    """(c,) what the host has to know to complete it."""
    complete: Callable[[Keep, list[float]], Keep]
    """Completes it by these numbers. It may leave out the last rows of the order."""

    def read(self, numbers: Tensor) -> Keep:
        """The whole decision. `numbers`: its own, on the CPU."""
        return self.complete(self.keep, cast("list[float]", cast("Any", numbers).tolist()))


@dataclass(frozen=True, kw_only=True)
class Method:
    """A pruning method: a frozen dataclass. Its fields are its options, and its `select` picks the rows that stay.

        class Longest(Method):
            def select(self, cues, k):
                order = cues.features.norm(dim=1).argsort(descending=True)[:k]
                return Keep.from_order(order, order.new_zeros(k).float(), cues.n)

    A method sees one image and no model. `select` gets checked, finite cues and 0 < k <= n. It returns exactly k rows,
    or at most k if `exact` is False, on the device of the cues: see `Keep.from_order`. `needs` lists each cue that the
    method reads beyond the features, such as `(Text(), Attention("cls"))`. Further promises are class attributes:
    `stages` where it may run, `equivariant`, `merges`, `compares_frames`, `weighs_relevance`, `reads_tokens`.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    stages: ClassVar[tuple[type[Stage], ...]] = (Input, Layer, Layers, Depths)
    equivariant: ClassVar[bool] = True
    """True if permuting the tokens permutes the selection. False if positions, random draws or ties decide."""
    merges: ClassVar[bool] = False
    """True if kept rows are means of several tokens. Such a method cannot protect tokens."""
    compares_frames: ClassVar[bool] = False
    """True if it compares the frames of a clip. Such a method cannot choose from one frame alone."""

    weighs_relevance: ClassVar[bool] = False
    """True if it uses `cues.relevance` when that is given."""
    reads_tokens: ClassVar[bool] = True
    """True if it reads the tokens' own rows, `cues.features`. False if attention, keys or the grid are enough."""

    at: Stage = Input()
    """The stage of the cut if a call names none: the method's published stage."""

    @property
    def stays(self) -> bool:
        """True if `select_batch` reads no value before it decides, where cues lie on a GPU. So NaN cannot mislead it.

        Such cues are checked together with the answer, and the host waits once for both.
        """
        return False

    @property
    def exact(self) -> bool:
        """True if it returns exactly min(k, n) rows."""
        return True

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        raise NotImplementedError

    def select_batch(self, cues: Sequence[Cues], k: Sequence[int]) -> list[Keep]:
        """Choose the rows that stay of several images, as `select` does for each. Override it to run them at once.

        Like `select`, it gets checked cues and 0 < k <= n for each image, and runs without gradients.
        """
        return [self.select(each, count) for each, count in zip(cues, k, strict=True)]

    def begin_batch(self, cues: Sequence[Cues], k: Sequence[int]) -> list[Unread] | None:
        """Begin what `select_batch` does, for images on a GPU, and read nothing; None if it has no such way.

        It is asked only if the method `stays`.
        """
        return None

    def kept(self, k: int, n: int, grid: tuple[int, int, int] | None) -> int | None:
        """The number of n tokens on a grid that stay for a budget of k, 0 < k <= n; None if only a run can say."""
        return k if self.exact else None

    @property
    def reads(self) -> frozenset[str]:
        """The cues that the selection depends on, besides the number of tokens. A cache key must hold all of them.

        Each word names a field of `Cues`:

        - "tokens": the tokens' own rows, `features`;
        - "text": all text rows, `text`; "question": only those of the question; "chat": those and all behind them;
          "last_text": only the last one;
        - "grid", "tiles", "norm", "relevance", "protect": the fields of that name;
        - "attention", "keys", "encoded": the fields of that name, or the needs of that kind in `more`;
        - "values", "change": the needs of that kind in `more`; "text_keys": keys of the text there.

        They follow from `needs`. A method overrides this if its `select` reads an optional cue, or only a part of the
        text. `greedyprune.testing.check_method` finds a word that is missing.

            GreedyPrune().reads    # {"tokens", "last_text", "protect"}
        """
        words = {need.word for need in self.needs}
        words |= {"tokens"} if self.reads_tokens else set()
        words |= {"relevance"} if self.weighs_relevance else set()
        return frozenset(words | (set() if self.merges else {"protect"}))

    def _repr_html_(self) -> str:
        """What it does and its options, in a notebook."""
        first = (inspect.getdoc(type(self)) or "").partition("\n\n")[0]
        options = [(field.name, repr(getattr(self, field.name))) for field in fields(self)]
        table = notebook.table(("option", "value"), options)
        return notebook.titled(type(self).__name__, f"<p>{escape(first)}</p>{table}")

    def counts(self, k: int, n: int, cuts: int) -> list[int]:
        """The number of n tokens that stay after each cut, falling geometrically to k after the last. -> (cuts)"""
        shares = [(k / n) ** ((cut + 1) / cuts) if n else 0.0 for cut in range(cuts)]
        return [max(k, min(n, math.floor(n * share + 0.5))) for share in shares[:-1]] + [k]

    def check_stage(self, stage: Stage) -> None:
        """Raise ValueError unless this method may run at that stage."""
        if not isinstance(stage, Stage):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"{type(self).__name__} cannot run at {stage!r}, which is no stage: write Input(), Layer(2), "
                "Layers((8, 16)) or Depths((0.25, 0.5))."
            )
        if not isinstance(stage, self.stages):
            places = ", ".join(place.__name__ for place in self.stages)
            raise ValueError(f"{type(self).__name__} cannot run at {stage!r}: it runs at {places}.")

    def check_frames(self, keep: PerFrame) -> None:
        """Raise ValueError unless this method can choose from one frame of a clip at a time."""
        if self.compares_frames:
            raise ValueError(
                f"{type(self).__name__} compares the frames of a clip, so it cannot choose with {keep!r} from "
                "one frame at a time: give the budget of the whole clip, an int or Ratio(0.25)."
            )
