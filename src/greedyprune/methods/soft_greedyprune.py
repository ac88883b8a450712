"""SoftGreedyPrune: a token's saliency plus the logarithm of its distance from the closest kept token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import torch

from greedyprune.cues import Cues
from greedyprune.keep import Keep, SoftCertificate
from greedyprune.ops.barrier import check_weight, log_barrier
from greedyprune.ops.channels import Scaling, scaled
from greedyprune.ops.cosine import SLACK, unit64
from greedyprune.ops.kernels import picks
from greedyprune.ops.kernels.batch import AtOnce, Chosen, protected_rows, stacked, weighed_by
from greedyprune.ops.preprocess import asked
from greedyprune.ops.relevance import from_0_to_1
from greedyprune.ops.unit_centre import centred_cosines, centred_cosines_at_once
from greedyprune.saliencies import Weighing, Words, read_saliency
from greedyprune.shown import shown
from greedyprune.stages import Layer, Stage

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SoftGreedyPrune(AtOnce, Weighing):
    """Take the most salient token, then always the one with the largest a w_i + log(1 - max over kept s of u_i · u_s).

        gp.prune(model, gp.SoftGreedyPrune(), keep=64)  # the default method, so the same as gp.prune(model, keep=64)

    Every coordinate is first divided by its root mean square over the image's tokens, since a few hold most of a state
    in real language models. Then u_i = x_i / |x_i|, m = mean of u_i, and the saliency is relevance without what all
    tokens share: w_i = max over the question's tokens t of cos(u_i - m, t / |t| - m). `text="last"` takes the last
    prompt token alone, the paper's cue. Another `saliency` is scaled to 0..1 over the image. This is GreedyPrune's
    problem in a soft form, with the log barrier of its constraint cos(u_i, u_s) <= τ at τ = 1, and not the paper's
    algorithm. A copy of a kept token is out of reach; one that merely resembles it loses little. Selections are nested
    in k. a = 0 is farthest-first from the most salient token; a large a is top-k. Gains are those values; the first has
    no logarithm. With v_i = exp(a w_i / 2) the rule is that of weighted k-centre (`SoftCertificate`, docs/rule.md).

    Differs: it has no paper. The constant a was chosen on dev questions of the bundled models, reading and scaling on
    those of a model with a real decoder (docs/findings.md). Decisions are those of float64; ties go to the lowest row.
    A distance 1 - cosine below 1e-12 counts as 1e-12. Zero rows, and rows at the mean, have saliency 0. Protected
    tokens replace the first pick. The question is that of the image's own turn, and later turns change no selection;
    `text="chat_max"` reads them too. At `Input()` `text="last"` is blind, since that token is the template's.
    Cost: O(n m d) for m question tokens and O(k n d) for the picks. Memory: O(n d).
    """

    at: Stage = Layer(2)
    text: Words = "question_max"
    """The text of the cosine: the question's or chat's most similar token, the question's mean, or the last token."""
    weight: float = 8.0
    """a, 0 or more: the weight of the saliency against the logarithm of the distance."""
    preprocess: Scaling = "channels"
    """Before any cosine: "channels" divides every coordinate by its root mean square, "none" changes no row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("weight", self.weight)
        if self.preprocess not in get_args(Scaling):
            raise ValueError(f"preprocess={shown(self.preprocess)} is unknown: write {' or '.join(get_args(Scaling))}.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        own = read_saliency(self.saliency, cues)
        asking = cues.features[:0] if own is not None else asked(self.text, cues.text, cues.question)
        rows, words = scaled(self.preprocess, cues.features, asking)
        worth = centred_cosines(rows, words).amax(1) if own is None else from_0_to_1(own)
        given = cues.protect if cues.protect is not None and cues.protect.numel() else None
        found = log_barrier(rows, worth, k, self.weight, given=given)
        proof = self._proof(float(worth.min()), float(worth.max()), float(found.gains[-1]), k, given)
        return Keep.from_order(found.order, found.gains, cues.n, certificate=proof)

    def at_once(self, cues: Sequence[Cues], k: int) -> Chosen:
        """Choose the k rows that stay of images of one size, on their GPU. b of (n, d) -> Chosen"""
        own, asking = weighed_by(self, cues)
        rows, words = scaled(self.preprocess, torch.stack([each.features for each in cues]), stacked(asking))
        units, given = unit64(rows), protected_rows(cues)
        worth = centred_cosines_at_once(units, words).amax(2) if own is None else from_0_to_1(own)
        order, gains = picks.log_barrier(units, worth, k, self.weight, given=given)

        def complete(keep: Keep, told: list[float]) -> Keep:
            return replace(keep, certificate=self._proof(told[0], told[1], told[2], k, given))

        numbers = torch.stack([worth.amin(1), worth.amax(1), gains[:, -1]], 1)
        return Chosen(units.shape[1], order, gains, numbers, complete=complete)

    def _proof(self, least: float, most: float, last: float, k: int, given: Tensor | None) -> SoftCertificate | None:
        """What is proven, by the extreme saliencies and the last gain; None if the rule took no token. (..., p)"""
        protected = 0 if given is None else given.shape[-1]
        if protected == k:
            return None
        # The first token has no barrier, so its gain bounds no other's. A distance is at most 2.
        level = last if k > 1 else self.weight * most + math.log(2)
        equal = self.weight == 0 or most - least <= SLACK
        return SoftCertificate(level, None if protected else 2 if equal else 3)
