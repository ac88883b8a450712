"""Symbolic visual tokens: what a patch shows, written as a sum of rows of an orthonormal codebook.

The rows for kinds, colours and characters are the decoder's word embeddings, so a decoder that has learned these tokens
reads any tower whose projector produces them. That ties the similarity of text and patches by construction, which is
why the models' numbers are evidence about themselves alone.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from greedyprune.testbed.layout import SHAPES
from greedyprune.testbed.questions import PLURALS
from greedyprune.testbed.train.labels import CHARACTERS, KINDS, PAINTS, Labels
from greedyprune.testbed.train.vocabulary import IDS, SIZE, WORDS

WIDTH = 128
NORM = 4.0
MIDDLING, SPREAD = 32, 12  # pixels: a shape of side 32 says nothing about size, one of 44 says 1


class Codebook(NamedTuple):
    """The rows; every one of length NORM or a fixed part of it."""

    words: Tensor  # (SIZE, d) word embeddings
    kinds: Tensor  # (kinds, d), the first one that of the background
    colours: Tensor  # (paints, d), the first one zero
    characters: Tensor  # (characters + 1, d), the last one zero
    slots: Tensor  # (3 + 1, d), the last one zero
    centre: Tensor  # (d,)
    side: Tensor  # (d,)
    line: Tensor  # (2, d) x and y
    wave: Tensor  # (4, d) sine and cosine of half a turn in x, then in y


@cache
def codebook() -> Codebook:
    """The same rows always: both models and all seeds share them."""
    rows = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(7)))[0] * NORM
    words, rest = rows[:SIZE].clone(), rows[len(WORDS) :]
    line, wave, slots, centre, background, side = rest[0:2], rest[2:6] / 2, rest[6:9], rest[9], rest[10] / 2, rest[11]
    words[len(WORDS) :] = 0
    for word, other in _related(line, wave, side).items():
        words[IDS[word]] = 0.8 * words[IDS[word]] + 0.6 * other
    for shape in SHAPES:
        words[IDS[PLURALS[shape]]] = 0.8 * words[IDS[shape]] + 0.6 * words[IDS[PLURALS[shape]]]
    none = torch.zeros(1, WIDTH)
    return Codebook(
        words=words,
        kinds=torch.cat([background[None], words[[IDS[kind] for kind in KINDS[1:]]]]),
        colours=torch.cat([none, words[[IDS[paint] for paint in PAINTS[1:]]]]),
        characters=torch.cat([words[[IDS[char] for char in CHARACTERS]], none]),
        slots=torch.cat([slots, none]),
        centre=centre,
        side=side,
        line=line,
        wave=wave,
    )


@cache
def apart() -> Tensor:
    """A rotation that takes words out of the basis they share with visual tokens. -> (d, d)"""
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(8)))[0]


def _related(line: Tensor, wave: Tensor, side: Tensor) -> dict[str, Tensor]:
    """Words that start close to a direction of the picture."""
    x, y = line
    return {
        "left": -x, "right": x, "top": -y, "bottom": y, "above": -y, "below": y, "center": 2 * wave[1],
        "middle": 2 * wave[3], "larger": side, "smaller": -side,
    }  # fmt: skip


def places(grid: tuple[int, int]) -> Tensor:
    """The code of each patch's place in a picture, whatever its size. (rows, columns) -> (n, d)"""
    rows, columns = grid
    book = codebook()
    y, x = ((2 * torch.arange(n) + 1) / n - 1 for n in grid)
    x, y = x.repeat(rows)[:, None], y.repeat_interleave(columns)[:, None]
    waves = torch.cat(
        [torch.sin(torch.pi * x), torch.cos(torch.pi * x), torch.sin(torch.pi * y), torch.cos(torch.pi * y)], 1
    )
    return torch.cat([x, y], 1) @ book.line + waves @ book.wave


def symbols(labels: Labels, grid: tuple[int, int], noise: float = 0.0) -> Tensor:
    """The tokens of labelled patches: the more noise, the weaker and the more mixed up each part. -> (b, n, d)"""
    book = codebook()
    shape = *labels.kind.shape, 1
    parts = [
        book.kinds[labels.kind],
        book.colours[labels.colour],
        book.characters[labels.character],
        book.slots[labels.slot],
        labels.centre[..., None] * book.centre,
        sides(labels)[..., None] * book.side,
    ]
    if noise:
        parts = [part * (1 - noise * torch.rand(shape)) for part in parts]
        # Part of the patches look a little like another shape, as the ones at an edge do.
        wrong = torch.randint(1, len(SHAPES) + 1, labels.kind.shape)
        much = torch.rand(shape) * (torch.rand(shape) < 0.4) * noise * 1.5
        is_shape = ((labels.kind > 0) & (labels.kind <= len(SHAPES)))[..., None]
        parts.append(is_shape * much * (book.kinds[wrong] - book.kinds[labels.kind]))
        parts.append(torch.randn(*labels.kind.shape, WIDTH) * noise / 4)
    return torch.stack(parts).sum(0) + places(grid)


def sides(labels: Labels) -> Tensor:
    """The size of the shape on each patch, from -1 to 1; 0 if there is none. -> (b, n)"""
    return torch.where(labels.side > 0, (labels.side - MIDDLING) / SPREAD, 0.0)
