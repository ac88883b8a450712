"""Statistics of paired answers: floors, accuracy centred on chance, and bootstrap intervals over images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from greedyprune.eval.items import Item
from greedyprune.eval.scoring import words

RESAMPLES = 2000


class Bootstrap:
    """Intervals of mean differences between answers to the same questions, from resampled images.

    Several questions share an image, so images are drawn, with all their questions: the r-th resample takes image c
    weights[r, c] times. All differences are resampled alike, so intervals of one run go together.
    """

    def __init__(self, pictures: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> None:
        names = {name: place for place, name in enumerate(dict.fromkeys(pictures))}
        self.cluster = torch.tensor([names[name] for name in pictures])
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(names), (resamples, len(names)), generator=generator)
        ones = torch.ones(drawn.shape, dtype=torch.float64)
        self.weights = torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, ones)

    def means(self, values: Tensor, among: Tensor) -> Tensor:
        """The means of `values` over the questions `among`, in every resample. (q, v), (q,) bool -> (resamples, v)

        NaN where a resample has none of them.
        """
        images = self.weights.shape[1]
        some = among.double()[:, None]
        totals = torch.zeros(images, values.shape[1], dtype=torch.float64)
        totals.index_add_(0, self.cluster, values.double() * some)
        counts = torch.zeros(images, 1, dtype=torch.float64).index_add_(0, self.cluster, some)
        return (self.weights @ totals) / (self.weights @ counts)


def interval(means: Tensor) -> tuple[float, float]:
    """The middle 95 % of resampled means; resamples without a value are left out. (resamples,) -> low, high"""
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(means[~means.isnan()], ends).tolist()
    return low, high


def unseen_loss(pictures: int) -> float:
    """The largest loss that so many pictures can miss wholly in 2.5 % of draws: 1 - 0.025^(1/m).

    If nothing is lost on m pictures, a loss of this size may still be there. It is 12 points for 30 pictures, 1.8 for
    200. No interval of a difference should be narrower.
    """
    return 1 - 0.025 ** (1 / max(pictures, 1))


def pictures_for(loss: float) -> int:
    """The least number of pictures that could show that no more than this share is lost."""
    return math.ceil(math.log(0.025) / math.log1p(-loss))


def majority_floor(items: Sequence[Item]) -> float:
    """The accuracy of always giving the most frequent answer."""
    return Counter(" ".join(words(item.answers[0])) for item in items).most_common(1)[0][1] / len(items)


def guess_floor(items: Sequence[Item]) -> float | None:
    """The accuracy of guessing among the values present; None if unknown."""
    known = [rate for item in items if (rate := item.guess_rate) is not None]
    return sum(known) / len(known) if known else None


def centred(accuracy: float, chance: float) -> float | None:
    """Rescale an accuracy: 0 at chance, 1 if all is right. None if chance is always right."""
    return (accuracy - chance) / (1 - chance) if chance < 1 else None


def hard(dense: Tensor, control: Tensor) -> Tensor:
    """Questions that need the pixels: all tokens answer them, as few tokens of a smaller image do not. (q,) bool

    The subset of VTC-Bench, arXiv 2510.07143.
    """
    return dense & ~control


def auc(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: how often a positive scores above another, ties counting half. (n,), (n,) bool"""
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts.double() - 1) / 2)[place]  # tied values share their mean rank
    p = int(positive.sum())
    rest = positive.numel() - p
    if not p or not rest:
        return float("nan")
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * rest))


def recall(scores: Tensor, positive: Tensor, k: int) -> float:
    """The share of the positives among the k highest scores; ties at the edge count their share. (n,), (n,) bool"""
    edge = scores.topk(k).values[-1]
    above, tied = scores > edge, scores == edge
    share = (k - int(above.sum())) / int(tied.sum())
    found = int((above & positive).sum()) + share * int((tied & positive).sum())
    return found / int(positive.sum()) if bool(positive.any()) else float("nan")
