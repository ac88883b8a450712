"""Batches of images of one size: what they hold, stacked, and one transfer for what the host has to know of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.cosine import cosine64, unit64
from greedyprune.ops.preprocess import Preprocess, asked, comparable
from greedyprune.resident import resident
from greedyprune.saliencies import Weighing, read_saliency

if TYPE_CHECKING:
    from greedyprune.cues import Cues

AT_ONCE = 2**27
"""The number of float64 entries of the rows of one batch: a gigabyte."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """What the images of a batch chose on their device, before the host knows of it."""

    numbers: Tensor
    """(b, c) float64: what the host has to know to make the decisions; c may be 0."""
    keep: Callable[[int, list[float]], Keep]
    """Makes one image's decision from its number in the batch and its c numbers."""

    @classmethod
    def plain(cls, order: Tensor, gains: Tensor, n: int) -> Chosen:
        """Decisions without a certificate: nothing has to be known of them. (b, k), (b, k)"""
        return cls(gains[:, :0], lambda image, _: Keep.from_order(order[image], gains[image], n))


class AtOnce(Method):
    """A method whose `at_once` chooses for images of one size on their device, while the host waits for nothing.

    A subclass with a `select` of its own needs an `at_once` of its own; without one it never `stays`.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "select" in vars(cls) and "at_once" not in vars(cls):
            setattr(cls, "stays", property(lambda _: False))  # noqa: B010

    @property
    def stays(self) -> bool:
        """True: where cues lie on a GPU, it decides there."""
        return True

    def at_once(self, cues: Sequence[Cues], k: int) -> Chosen:
        """Choose the k rows that stay of images of one size, on their GPU. b of (n, d) -> Chosen"""
        raise NotImplementedError

    def select_batch(self, cues: Sequence[Cues], k: Sequence[int]) -> list[Keep]:
        """Choose the rows that stay of several images; on a GPU, if it `stays`, of those of one size at once.

        The host waits at most once, for the numbers of all images.
        """
        return _together(self, cues, k) if self.stays else super().select_batch(cues, k)


def _together(method: AtOnce, cues: Sequence[Cues], k: Sequence[int]) -> list[Keep]:
    """Choose for several images: those of one size and budget at once on a device, and each alone on the CPU."""
    found: dict[int, Keep] = {}
    groups: dict[Any, list[int]] = {}
    for i, (each, count) in enumerate(zip(cues, k, strict=True)):
        if resident(each.features):
            size = (each.features.device, each.features.dtype, each.features.shape, count, _protected(each))
            groups.setdefault(size, []).append(i)
        else:
            found[i] = method.select(each, count)
    batches: list[tuple[list[int], Chosen]] = []
    for group in groups.values():
        size = max(1, AT_ONCE // cues[group[0]].features.numel())
        for start in range(0, len(group), size):
            some = group[start : start + size]
            batches.append((some, method.at_once([cues[i] for i in some], k[some[0]])))
    told = _told([chosen.numbers for _, chosen in batches])
    for (some, chosen), numbers in zip(batches, told, strict=True):
        found |= {i: chosen.keep(place, numbers[place]) for place, i in enumerate(some)}
    return [found[i] for i in range(len(cues))]


def _protected(cues: Cues) -> int:
    return 0 if cues.protect is None else cues.protect.shape[0]


def _told(numbers: list[Tensor]) -> list[list[list[float]]]:
    """The numbers of all batches on the host, by one transfer; none if there are none. [(b, c)] -> [b lists of c]"""
    if not sum(each.numel() for each in numbers):
        return [[[] for _ in each] for each in numbers]
    home = numbers[0].device
    flat = torch.cat([each.flatten() if each.device == home else each.flatten().to(home) for each in numbers])
    rest = iter(cast("list[float]", flat.tolist()))  # pyright: ignore[reportUnknownMemberType]
    return [[[next(rest) for _ in range(each.shape[1])] for _ in range(each.shape[0])] for each in numbers]


def protected_rows(cues: Sequence[Cues]) -> Tensor | None:
    """The protected rows of images that protect equally many; None if none. -> (b, p)"""
    rows = [each.protect for each in cues if each.protect is not None and each.protect.shape[0]]
    return torch.stack(rows) if rows else None


def weighed_by(method: Weighing, cues: Sequence[Cues]) -> tuple[Tensor | None, list[Tensor]]:
    """The saliencies of the images, or the text rows of their cosine. -> (b, n) or None, b of (m, d)"""
    own = [read_saliency(method.saliency, each) for each in cues]
    known = [each for each in own if each is not None]
    if known:
        return torch.stack(known), [each.features[:0] for each in cues]
    return None, [asked(method.text, each.text, each.question) for each in cues]


def stacked(words: Sequence[Tensor]) -> Tensor:
    """Text rows of several images. The last row of a short text is repeated, which changes no maximum. -> (b, m, d)"""
    most = max(each.shape[0] for each in words)
    return torch.stack([torch.cat([each, each[-1:].expand(most - each.shape[0], -1)]) for each in words])


def compared(method: Weighing, how: Preprocess, cues: Sequence[Cues]) -> tuple[Tensor, Tensor]:
    """Prepared rows of length 1 and saliencies of several images, in float64. -> (b, n, d), (b, n)"""
    own, asking = weighed_by(method, cues)
    ready = [comparable(how, c.features, words, c.norm) for c, words in zip(cues, asking, strict=True)]
    units = unit64(torch.stack([rows for rows, _ in ready]))
    return units, own if own is not None else cosine64(units, stacked([words for _, words in ready])).amax(2)
