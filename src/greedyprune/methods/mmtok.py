"""MMTok: keep the visual tokens that cover both the words of the question and the image itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.cues import Cues, Encoded, Need, Text
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.centre import Centring, check_centring, prepared, prepared_with
from greedyprune.ops.coverage import Alike, Given, cover
from greedyprune.ops.preprocess import asked
from greedyprune.ops.relevance import cosines_with
from greedyprune.stages import Input, Stage

ROWS = Encoded()


@dataclass(frozen=True, kw_only=True)
class MMTok(Method):
    """Greedy maximum coverage of m words and n visual tokens: choose S that maximises the sum of their best coverage.

        gp.prune(model, gp.MMTok(), keep=64)

    Token i covers word j by softmax over i of cos(x_i, t_j) / 0.02, divided by m, with x the projector's rows. It
    covers visual token r by softmax over i of cos(f_i, f_r) / 0.2, times α / n, with f the vision tower's rows. Gains
    are the added coverage. Sixun Dong et al., ICLR 2026.

    Differs: the words are all of the question's rows; the filter for key words and the exclusion of padding patches are
    left out. Protected tokens come first. Tokens keep their original positions. Everything is float64; ties go to the
    lowest index. `preprocess` is an addition. Cost: O(n² d) once, then lazily O(n + m) per gain.
    """

    needs: ClassVar[tuple[Need, ...]] = (Text(), ROWS)

    at: Stage = Input()
    alpha: float = 0.5
    """The weight of covering the image. Covering the words has weight 1."""
    text_temperature: float = 0.02
    """The temperature of the softmax over visual tokens for a word."""
    temperature: float = 0.2
    """The temperature of the softmax over visual tokens for a visual token."""
    preprocess: Centring = "none"
    """Before any cosine: "none" changes no row; "center" subtracts the mean visual token from each row (Cen-Prune)."""

    def __post_init__(self) -> None:
        check_centring(self.preprocess)
        if not self.alpha >= 0:
            raise ValueError(f"alpha={self.alpha!r}: write a number of 0 or more.")
        if not (self.text_temperature > 0 and self.temperature > 0):
            given = f"text_temperature={self.text_temperature!r}, temperature={self.temperature!r}"
            raise ValueError(f"{given}: write numbers above 0.")

    @property
    def reads(self) -> frozenset[str]:
        """The tokens, the vision tower's rows and the question."""
        return (super().reads - {"text"}) | {"question"}

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        assert cues.text is not None
        x, text = prepared_with(self.preprocess, cues.features, cues.text)
        toward = cosines_with(x, asked("question_max", text, cues.question)).T
        words = Given((toward / self.text_temperature).softmax(1) / toward.shape[0])
        even = torch.full((cues.n,), self.alpha / cues.n, device="cpu")
        image = Alike(prepared(self.preprocess, cues[ROWS]), even, self.temperature)
        found = cover([words, image], k, given=cues.protect)
        return Keep.from_order(found.order, found.gains, cues.n)
