"""Questions about a scene, with their answers and the boxes that carry them; ambiguous ones are never asked.

A coloured digit tile looks like a square, so nothing is asked where a tile could pass for a shape: no count of squares
or of all shapes next to tiles, nothing about a square of a tile's colour, no count or shape of a colour that a tile
has. (But "is there a red square ?" is asked where a real one is.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from greedyprune.testbed.layout import COLOURS, SHAPES, SIDE, Box, Object

TASKS = ("exist", "count", "color", "shape", "where", "rel", "digit", "ocr")
KINDS = ("exist", "count-all", "count-shape", "count-colour", "color", "shape", "where", "rel", "digit", "ocr")
PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}

_COLOURS = tuple(COLOURS)
Rng = np.random.Generator
Pair = tuple[str, str]  # a colour and a shape


@dataclass(frozen=True)
class Question:
    """One question about one scene."""

    task: str  # one of TASKS
    kind: str  # one of KINDS: the task, with "count" told apart by what is counted
    text: str  # in the words of the bundled model's vocabulary, with spaces between them
    answer: str
    boxes: tuple[Box, ...] = ()  # the pixels that carry the answer; none where the answer is "no" or "0"


def correct(question: Question, answer_text: str) -> bool:
    """Is it the right answer, word for word, whatever the spaces and the case?"""
    return answer_text.casefold().split() == question.answer.casefold().split()


def answer_patches(question: Question, grid: int = 12, patch: int = 14) -> list[int]:
    """The patches of which more than a fifth is covered by one of the question's boxes, row by row, ascending."""
    edges = np.arange(grid) * patch
    found = np.zeros((grid, grid), bool)
    for left, top, right, bottom in question.boxes:
        width = np.clip(np.minimum(right, edges + patch) - np.maximum(left, edges), 0, None)
        height = np.clip(np.minimum(bottom, edges + patch) - np.maximum(top, edges), 0, None)
        found |= height[:, None] * width * 5 > patch * patch
    return np.flatnonzero(found).tolist()


def ask(objects: tuple[Object, ...], rng: Rng) -> tuple[Question, ...]:
    """Up to two questions on existence, up to one of the other kinds, and one for each tile and each sign."""
    facts = _Facts(objects)
    asked: dict[str, Question] = {}
    for source in _SOURCES:
        for question in source(facts, rng):
            asked.setdefault(question.text, question)
    return tuple(asked.values())


@dataclass(frozen=True)
class _Facts:
    """What questions look up in a scene."""

    objects: tuple[Object, ...]

    @cached_property
    def shapes(self) -> list[Object]:
        return [thing for thing in self.objects if thing.kind in SHAPES]

    @cached_property
    def tiles(self) -> list[Object]:
        return [thing for thing in self.objects if thing.kind == "tile"]

    @cached_property
    def pairs(self) -> dict[Pair, list[Object]]:
        found: dict[Pair, list[Object]] = {}
        for thing in self.shapes:
            found.setdefault((thing.colour, thing.kind), []).append(thing)
        return found

    @cached_property
    def by_colour(self) -> dict[str, list[Object]]:
        return {c: [thing for thing in self.shapes if thing.colour == c] for c, _ in self.pairs}

    @cached_property
    def by_shape(self) -> dict[str, list[Object]]:
        return {s: [thing for thing in self.shapes if thing.kind == s] for _, s in self.pairs}

    @cached_property
    def unique(self) -> list[Object]:
        """Shapes that their colour and kind name without doubt."""
        return [found[0] for pair, found in self.pairs.items() if len(found) == 1 and not self.tile_like(*pair)]

    def tile_like(self, colour: str | None = None, shape: str | None = None) -> bool:
        """Could a tile of this scene pass for such a shape? None stands for any colour, any shape."""
        return shape in (None, "square") and any(colour in (None, tile.colour) for tile in self.tiles)


def _exist(facts: _Facts, rng: Rng) -> Iterator[Question]:
    for _ in range(2):
        pairs = list(facts.pairs)
        if rng.random() < 0.5 and pairs:
            pair = pairs[rng.integers(len(pairs))]
            yield _question("exist", f"is there a {' '.join(pair)} ?", "yes", *facts.pairs[pair])
            continue
        for _ in range(10):
            pair = _decoy(pairs, rng)
            if pair not in facts.pairs and not facts.tile_like(*pair):
                yield _question("exist", f"is there a {' '.join(pair)} ?", "no")
                break


def _decoy(pairs: list[Pair], rng: Rng) -> Pair:
    """A pair that may be absent: mostly a present colour with a present shape, so that seeing both is not enough."""
    if rng.random() < 0.8 and len(pairs) > 1:
        return pairs[rng.integers(len(pairs))][0], pairs[rng.integers(len(pairs))][1]
    if rng.random() < 0.7 and pairs:
        colour, shape = pairs[rng.integers(len(pairs))]
        if rng.random() < 0.5:
            return colour, SHAPES[rng.integers(len(SHAPES))]
        return _COLOURS[rng.integers(len(_COLOURS))], shape
    return _COLOURS[rng.integers(len(_COLOURS))], SHAPES[rng.integers(len(SHAPES))]


def _count(facts: _Facts, rng: Rng) -> Iterator[Question]:
    which = rng.random()
    if which < 0.2 and not facts.tiles:
        yield _question("count-all", "how many shapes ?", str(len(facts.shapes)), *facts.shapes)
    elif which < 0.6:
        shape = _present_or_any(facts.by_shape, SHAPES, rng)
        found = facts.by_shape.get(shape, [])
        if not facts.tile_like(shape=shape):
            yield _question("count-shape", f"how many {PLURALS[shape]} ?", str(len(found)), *found)
    else:
        colour = _present_or_any(facts.by_colour, _COLOURS, rng)
        found = facts.by_colour.get(colour, [])
        if not facts.tile_like(colour=colour):
            yield _question("count-colour", f"how many {colour} shapes ?", str(len(found)), *found)


def _present_or_any(present: dict[str, list[Object]], every: tuple[str, ...], rng: Rng) -> str:
    choices = every if rng.random() < 0.3 or not present else tuple(present)
    return choices[rng.integers(len(choices))]


def _color(facts: _Facts, rng: Rng) -> Iterator[Question]:
    alone = [s for s, found in facts.by_shape.items() if len(found) == 1 and not facts.tile_like(shape=s)]
    if alone:
        shape = alone[rng.integers(len(alone))]
        thing = facts.by_shape[shape][0]
        yield _question("color", f"what color is the {shape} ?", thing.colour, thing)


def _shape(facts: _Facts, rng: Rng) -> Iterator[Question]:
    alone = [c for c, found in facts.by_colour.items() if len(found) == 1 and not facts.tile_like(colour=c)]
    if alone:
        colour = alone[rng.integers(len(alone))]
        thing = facts.by_colour[colour][0]
        yield _question("shape", f"what shape is the {colour} one ?", thing.kind, thing)


def _where(facts: _Facts, rng: Rng) -> Iterator[Question]:
    if not facts.unique:
        return
    thing = facts.unique[rng.integers(len(facts.unique))]
    x, y = (v - SIDE / 2 for v in thing.centre)
    if min(abs(x), abs(y)) > 12:  # what is close to a middle line is neither left nor right
        answer = f"{'top' if y < 0 else 'bottom'} {'left' if x < 0 else 'right'}"
        yield _question("where", f"where is the {thing.colour} {thing.kind} ?", answer, thing)


def _rel(facts: _Facts, rng: Rng) -> Iterator[Question]:
    if len(facts.unique) < 2:
        return
    a, b = (facts.unique[i] for i in rng.permutation(len(facts.unique))[:2])
    dx, dy = a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
    claims: list[tuple[str, bool]] = []
    if abs(dx) > 20:
        claims += [("left of", dx < 0), ("right of", dx > 0)]
    if abs(dy) > 20:
        claims += [("above", dy < 0), ("below", dy > 0)]
    if claims:
        claim, holds = claims[rng.integers(len(claims))]
        text = f"is the {a.colour} {a.kind} {claim} the {b.colour} {b.kind} ?"
        yield _question("rel", text, "yes" if holds else "no", a, b)


def _digit(facts: _Facts, rng: Rng) -> Iterator[Question]:
    for tile in facts.tiles:
        yield _question("digit", f"what digit is on the {tile.colour} tile ?", tile.text, tile)


def _ocr(facts: _Facts, rng: Rng) -> Iterator[Question]:
    for sign in facts.objects:
        if sign.kind == "sign":
            yield _question("ocr", f"what does the {sign.colour} sign say ?", " ".join(sign.text), sign)


_SOURCES = (_exist, _count, _color, _shape, _where, _rel, _digit, _ocr)


def _question(kind: str, text: str, answer: str, *carriers: Object) -> Question:
    return Question(kind.split("-")[0], kind, text, answer, tuple(thing.box for thing in carriers))
