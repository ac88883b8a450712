"""Stage two: tower and projector learn to turn pictures into symbolic tokens, from the labels of patches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from greedyprune.testbed.assets import DIGITS
from greedyprune.testbed.generator import picture
from greedyprune.testbed.layout import COLOURS, COUNTS, CROWDED, SHAPES, Object, one
from greedyprune.testbed.train.answers import grid_of, to_pixels
from greedyprune.testbed.train.codebook import NORM, codebook, sides, symbols
from greedyprune.testbed.train.labels import CHARACTERS, Labels, label
from greedyprune.testbed.train.loop import Run, Schedule, train
from greedyprune.testbed.train.models import Architecture

STEPS = 4000
BATCH = 10
RATE, PROJECTOR_RATE = 1e-3, 1.5e-3
SHARPNESS = 6 / NORM**2  # logits of 6 for a row that is there in full

Pictures = tuple[Tensor, Labels, list[tuple[Object, ...]]]


def run_vision(run: Run, architecture: Architecture, model: Any) -> None:
    """Train tower and projector in place; the decoder is not touched."""
    tower, projector = architecture.tower(model), architecture.projector(model)
    summary = nn.Linear(_summary_width(model), len(_presence(())))
    held_out = [pictures(architecture, (9, i), 40, "dev") for i in range(len(architecture.sizes))]

    def loss(step: int, done: float) -> Tensor:
        pixels, labels, scenes = pictures(architecture, (run.seed, 2, run.rank, step), BATCH, "train", CROWDED)
        cls, tokens = architecture.see(model, pixels)
        total = torch.stack(list(_token_losses(tokens, labels, grid_of(pixels)).values())).sum()
        if cls is not None:
            present = torch.from_numpy(np.stack([_presence(objects) for objects in scenes]))
            total = total + 2 * binary_cross_entropy_with_logits(summary(cls), present)
        return total

    def test() -> dict[str, Any]:
        with torch.no_grad():
            rows = [_scores(architecture.see(model, batch[0])[1], batch[1], grid_of(batch[0])) for batch in held_out]
        return {key: f"{np.mean([row[key] for row in rows]):.3f}" for key in rows[0]}

    parts = {"tower": tower, "projector": projector, "summary": summary}
    slow = [*tower.parameters(), *summary.parameters()]
    groups = [{"params": slow, "lr": RATE}, {"params": list(projector.parameters()), "lr": PROJECTOR_RATE}]
    train(run, parts, groups, loss, test, Schedule(constant=0.5))


def pictures(
    architecture: Architecture, seed: tuple[int, ...], n: int, split: str, crowd: Sequence[Sequence[int]] = COUNTS
) -> Pictures:
    """n scenes of one size, every other one of a crowd: pixels as the model wants them, labels, objects."""
    rng = np.random.default_rng(seed)
    size = one(rng, architecture.sizes)
    drawn = [picture(rng, split, size, (COUNTS, crowd)[i % 2]) for i in range(n)]
    scenes = [objects for _, objects in drawn]
    return to_pixels([np.asarray(image) for image, _ in drawn]), label(scenes, size), scenes


def _token_losses(tokens: Tensor, labels: Labels, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Each part of the code read off the tokens by its own rows, and the distance to the whole code."""
    book = codebook()
    weight = 0.15 + 0.85 * (labels.kind > 0) + (labels.centre > 0) + (labels.slot >= 0)
    weight = weight * (labels.unclear == 0)
    distance = (tokens - symbols(labels, grid)).square().sum(-1) / NORM**2
    clear = labels.unclear == 0
    flag = tokens @ book.centre / NORM**2
    return {
        "distance": (distance * weight).sum() / weight.sum(),
        "kind": 2 * _read(tokens, book.kinds, torch.where(clear, labels.kind, -1), background=0.1),
        "colour": _read(tokens, book.colours[1:], labels.colour - 1),
        "character": 2 * _read(tokens, book.characters[:-1], labels.character),
        "slot": _read(tokens, book.slots[:-1], labels.slot),
        "centre": binary_cross_entropy_with_logits(8 * (flag - 0.5)[clear], labels.centre[clear].float()),
        "side": (tokens @ book.side / NORM**2 - sides(labels))[labels.side > 0].square().mean(),
    }


def _read(tokens: Tensor, rows: Tensor, target: Tensor, background: float = 1.0) -> Tensor:
    """Cross-entropy of naming the row that a token holds, if it holds one; the first row may count less."""
    there = target >= 0
    weight = torch.ones(len(rows))
    weight[0] = background
    return cross_entropy(SHARPNESS * tokens[there] @ rows.T, target[there], weight)


def _scores(tokens: Tensor, labels: Labels, grid: tuple[int, int]) -> dict[str, float]:
    """Shares read right at middles (kind, colour, digit) and on signs (letter, slot), the flag, the size's error."""
    book = codebook()
    middle, sign = labels.centre > 0, labels.slot >= 0
    flagged = tokens @ book.centre / NORM**2 > 0.5
    losses = _token_losses(tokens, labels, grid)
    clear = labels.unclear == 0
    return {
        "kind": _right(tokens, book.kinds, labels.kind, middle),
        "background": _right(tokens, book.kinds, labels.kind, clear & (labels.kind == 0)),
        "colour": _right(tokens, book.colours[1:], labels.colour - 1, middle),
        "digit": _right(tokens, book.characters[:-1], labels.character, middle & (labels.character >= 0)),
        "letter": _right(tokens, book.characters[:-1], labels.character, sign),
        "slot": _right(tokens, book.slots[:-1], labels.slot, sign),
        "precision": float((flagged & middle).sum() / flagged.sum().clamp_min(1)),
        "recall": float((flagged & middle).sum() / middle.sum()),
        "side": float(losses["side"]),
        "distance": float(losses["distance"]),
    }


def _right(tokens: Tensor, rows: Tensor, target: Tensor, where: Tensor) -> float:
    return float(((tokens[where] @ rows.T).argmax(-1) == target[where]).float().mean())


def _presence(objects: tuple[Object, ...]) -> np.ndarray:
    """The contents of a scene: each coloured shape, each digit on a tile, each character on a sign."""
    pairs = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    found = np.zeros(len(pairs) + 10 + len(CHARACTERS), np.float32)
    for thing in objects:
        if thing.kind in SHAPES:
            found[pairs.index((thing.kind, thing.colour))] = 1
        elif thing.kind == "tile":
            found[len(pairs) + DIGITS.index(thing.text)] = 1
        else:
            found[[len(pairs) + 10 + CHARACTERS.index(char) for char in thing.text]] = 1
    return found


def _summary_width(model: Any) -> int:
    return model.config.vision_config.hidden_size
