"""Batches of images of one size: what they hold, stacked, and what the host has to know to complete their decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.keep import Keep
from greedyprune.method import Method, Unread
from greedyprune.ops.cosine import cosine64, unit64
from greedyprune.ops.preprocess import Preprocess, asked, comparable
from greedyprune.resident import read, resident
from greedyprune.saliencies import Weighing, read_saliency

if TYPE_CHECKING:
    from greedyprune.cues import Cues

AT_ONCE = 2**27
"""The number of float64 entries of the rows of one batch: a gigabyte."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """What the images of a batch chose on their device, before the host knows of it."""

    n: int
    """The number of tokens of each image."""
    order: Tensor
    """(b, k) the rows in the order taken."""
    gains: Tensor
    """(b, k) the value of each when it was taken."""
    numbers: Tensor | None = None
    """(b, c) float64: what the host has to know to complete the decisions; None if there is nothing."""
    own: Tensor | None = None
    """(b,) the number of rows that the method took by its own rule; None if all are."""
    by: Tensor | None = None
    """(b, n) the row that each row was passed over for; None if the method does not say."""
    complete: Callable[[Keep, list[float]], Keep] = lambda keep, _: keep
    """Completes one image's decision, by its c numbers."""

    def begun(self) -> list[Unread]:
        """The decision about each image; the host reads nothing."""
        rows = self.order.sort(1).values
        own = torch.full_like(self.order[:, 0], self.order.shape[1]) if self.own is None else self.own
        numbers = self.gains[:, :0] if self.numbers is None else self.numbers
        found: list[Unread] = []
        for image in range(rows.shape[0]):
            by = None if self.by is None else self.by[image]
            keep = Keep(self.n, rows[image], self.order[image], self.gains[image], own[image], by)
            found.append(Unread(keep, numbers[image], self.complete))
        return found


class AtOnce(Method):
    """A method whose `at_once` chooses for images of one size on their device, while the host waits for nothing.

    A subclass with a `select` of its own needs an `at_once` of its own; without one it never `stays`.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if {"select", "select_batch"} & {*vars(cls)} and not {"at_once", "begin_batch"} & {*vars(cls)}:
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
        far = [i for i, each in enumerate(cues) if self.stays and resident(each.features)]
        begun = self.begin_batch([cues[i] for i in far], [k[i] for i in far])
        numbers = read([each.numbers for each in begun])
        found = {i: each.read(told) for i, each, told in zip(far, begun, numbers, strict=True)}
        return [found[i] if i in found else self.select(each, k[i]) for i, each in enumerate(cues)]

    def begin_batch(self, cues: Sequence[Cues], k: Sequence[int]) -> list[Unread]:
        """Choose for images on a GPU: for those of one size and budget at once. The host reads nothing."""
        groups: dict[Any, list[int]] = {}
        for i, (each, count) in enumerate(zip(cues, k, strict=True)):
            size = (each.features.device, each.features.dtype, each.features.shape, count, _protected(each))
            groups.setdefault(size, []).append(i)
        found: dict[int, Unread] = {}
        for group in groups.values():
            size = max(1, AT_ONCE // max(self._numbers(cues[i]) for i in group))
            for start in range(0, len(group), size):
                some = group[start : start + size]
                found |= zip(some, self.at_once([cues[i] for i in some], k[some[0]]).begun(), strict=True)
        return [found[i] for i in range(len(cues))]

    def _numbers(self, cues: Cues) -> int:
        """How many numbers the rows of an image and those of its chat have, if the method reads it."""
        chat = cues.text if "chat" in self.reads else None
        return cues.features.numel() + (0 if chat is None else chat.numel())


def _protected(cues: Cues) -> int:
    return 0 if cues.protect is None else cues.protect.shape[0]


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
