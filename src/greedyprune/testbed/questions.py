"""Questions about a scene, with their answers and the boxes that carry them; ambiguous ones are never asked.

A coloured digit tile looks like a square, so nothing is asked where a tile could pass for a shape: no count of squares
next to tiles, nothing about a square of a tile's colour, no count or shape of a colour that a tile has, no question
about all shapes where tiles stand but no square does. (But "is there a red square ?" is asked where a real one is.)
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from greedyprune.ops.grid import covered_cells
from greedyprune.testbed.assets import DIGITS
from greedyprune.testbed.facts import Facts, Pair
from greedyprune.testbed.layout import COLOURS, PATCH, SHAPES, Box, Object, Rng, T, one

TASKS = ("exist", "count", "color", "shape", "where", "rel", "digit", "ocr", "compare", "coverage")
KINDS = (
    "exist", "count-shape", "count-colour", "color", "shape", "where", "rel", "digit", "ocr", "compare",
    "coverage-number", "coverage-missing",
)  # fmt: skip
FURTHER = ("grounding", "multiturn")
"""Tasks, each of one kind, that only models trained with them are asked. Asking them changes no other draw."""
PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SURE = 8  # pixels from a dividing line at which a place is beyond doubt
CELLS = 6  # rows, and columns, of the grid of *grounding*
INSIDE = 3  # pixels from the edge of its cell at which a middle is beyond doubt
AHEAD = 20  # pixels between two centres of which one is left of, or above, the other
LARGER = 1.35  # times the side, at least, of what is called larger

_COLOURS = tuple(COLOURS)


class Question(NamedTuple):
    """One question about one scene."""

    task: str  # one of TASKS or FURTHER
    kind: str  # one of KINDS or FURTHER: the task, with those told apart that ask in two ways
    text: str  # in the words of the bundled models' vocabulary, with spaces between them
    answer: str
    boxes: tuple[Box, ...] = ()  # the pixels that carry the answer; none where the answer is "no" or "0"
    # Among what somebody would guess who knows which values occur in the picture, but not where; a value that occurs
    # twice stands twice. Empty where that helps nobody.
    guesses: tuple[str, ...] = ()
    # The other things of the sort (shapes, tiles or signs) that `boxes` enclose; none where `boxes` is empty.
    others: tuple[Box, ...] = ()
    before: tuple[tuple[str, str], ...] = ()  # the turns before this question: each a question and its answer


def correct(question: Question, answer_text: str) -> bool:
    """True if this is the right answer, word for word. Spaces and case do not count; "seven" is "7"."""
    return spelled(answer_text.casefold()) == spelled(question.answer.casefold())


def spelled(answer: str) -> str:
    """The answer with its numbers below ten as words: "4 7 1" is "four seven one"."""
    return " ".join(NUMBERS[int(word)] if word in DIGITS else word for word in answer.split())


def answer_patches(
    question: Question, grid: tuple[int, int] = (12, 12), size: tuple[int, int] = (168, 168)
) -> list[int]:
    """The patches of which more than a fifth is covered by one of the question's boxes, row by row, ascending.

    `grid` counts patches (rows, columns); `size` is that of the image whose pixels the boxes speak of (width, height).
    """
    return covered_cells(question.boxes, grid, (0, 0, *size)).tolist()


# How many questions of each kind are asked about a scene, at most.
USUAL = {**dict.fromkeys(KINDS, 1), "exist": 2, "digit": 3, "ocr": 2}


def ask(
    objects: tuple[Object, ...], size: tuple[int, int], rng: Rng, wanted: Mapping[str, int] = USUAL
) -> tuple[Question, ...]:
    """Draw different questions that have one right answer, at most as many of each kind as `wanted` says."""
    facts = Facts(objects, size)
    asked: dict[tuple[object, str], Question] = {}
    for kind, want in wanted.items():
        for question in _SOURCES[kind](facts, rng, want):
            whole = question._replace(others=_others(objects, question.boxes))
            asked.setdefault((question.before, question.text), whole)
    return tuple(asked.values())


def _others(objects: Sequence[Object], boxes: Sequence[Box]) -> tuple[Box, ...]:
    """The boxes of all other things of the same sort as those in `boxes`."""
    sorts = {thing.sort for thing in objects if thing.box in boxes}
    return tuple(thing.box for thing in objects if thing.sort in sorts and thing.box not in boxes)


def _some(rng: Rng, found: Sequence[T], want: int) -> list[T]:
    """So many of what was found, in random order."""
    return [found[i] for i in rng.permutation(len(found))[:want]]


def _exist(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    pairs = list(facts.pairs)
    for _ in range(want):
        if rng.random() < 0.5:
            pair = one(rng, pairs)
            yield _existence(facts, pair, "yes")
            continue
        for _ in range(10):
            pair = _decoy(pairs, rng)
            if pair not in facts.pairs and not facts.tile_like(*pair):
                yield _existence(facts, pair, "no")
                break


def _existence(facts: Facts, pair: Pair, answer: str) -> Question:
    guess = "yes" if pair[0] in facts.by_colour and pair[1] in facts.by_shape else "no"
    found = facts.pairs.get(pair, ())
    return _question("exist", f"is there a {' '.join(pair)} ?", answer, found, (guess,))


def _decoy(pairs: list[Pair], rng: Rng) -> Pair:
    """A pair that may be absent: mostly a present colour with a present shape, so that seeing both is not enough."""
    choice = rng.random()
    colour, shape = one(rng, pairs)[0], one(rng, pairs)[1]
    if choice < 0.8:
        return colour, shape
    if choice < 0.87:
        return colour, one(rng, SHAPES)
    if choice < 0.94:
        return one(rng, _COLOURS), shape
    return one(rng, _COLOURS), one(rng, SHAPES)


def _count_shape(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    for shape in _countable(facts.by_shape, SHAPES, rng, want):
        if not facts.tile_like(shape=shape):
            found = facts.by_shape.get(shape, ())
            yield _question("count-shape", f"how many {PLURALS[shape]} ?", str(len(found)), found)


def _count_colour(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    for colour in _countable(facts.by_colour, _COLOURS, rng, want):
        if not facts.tile_like(colour=colour):
            found = facts.by_colour.get(colour, ())
            yield _question("count-colour", f"how many {colour} shapes ?", str(len(found)), found)


def _countable(present: dict[str, list[Object]], every: tuple[str, ...], rng: Rng, want: int) -> list[str]:
    """The values to count. The more there are of one the likelier it is, so that "1" is not nearly always right."""
    weight = np.array([len(present.get(value, ())) + 0.35 for value in every]) ** 1.5
    order = rng.choice(len(every), min(want, len(every)), replace=False, p=weight / weight.sum())
    return [every[i] for i in order]


def _color(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    alone = [s for s, found in facts.by_shape.items() if len(found) == 1 and not facts.tile_like(shape=s)]
    for shape in _some(rng, alone, want):
        found = facts.by_shape[shape]
        yield _question("color", f"what color is the {shape} ?", found[0].colour, found, tuple(facts.by_colour))


def _shape(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    alone = [c for c, found in facts.by_colour.items() if len(found) == 1 and not facts.tile_like(colour=c)]
    for colour in _some(rng, alone, want):
        found = facts.by_colour[colour]
        yield _question("shape", f"what shape is the {colour} one ?", found[0].kind, found, tuple(facts.by_shape))


def _where(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    for thing in _some(rng, facts.unique, want):
        places = [
            _third(at, length, names)
            for at, length, names in zip(thing.centre, facts.size, (COLUMNS, ROWS), strict=True)
        ]
        if all(places):
            yield _question("where", f"where is the {thing.colour} {thing.kind} ?", f"{places[1]} {places[0]}", [thing])


def _third(at: float, length: int, names: Sequence[str]) -> str | None:
    """The name of the third of a line in which a point lies; None close to where two of them meet."""
    if min(abs(at - length / 3), abs(at - 2 * length / 3)) <= SURE:
        return None
    return names[int(3 * at / length)]


def _rel(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    if len(facts.unique) < 2:
        return
    for _ in range(want):
        a, b = _some(rng, facts.unique, 2)
        dx, dy = a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
        claims: list[tuple[str, bool]] = []
        if abs(dx) > AHEAD:
            claims += [("left of", dx < 0), ("right of", dx > 0)]
        if abs(dy) > AHEAD:
            claims += [("above", dy < 0), ("below", dy > 0)]
        if claims:
            claim, holds = one(rng, claims)
            text = f"is the {a.colour} {a.kind} {claim} the {b.colour} {b.kind} ?"
            yield _question("rel", text, "yes" if holds else "no", [a, b], ("yes", "no"))


def _digit(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    texts = tuple(tile.text for tile in facts.tiles)
    for tile in _some(rng, facts.tiles, want):
        yield _question("digit", f"what digit is on the {tile.colour} tile ?", tile.text, [tile], texts)


def _ocr(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    texts = tuple(" ".join(sign.text) for sign in facts.signs)
    for sign in _some(rng, facts.signs, want):
        text = f"what does the {sign.colour} sign say ?"
        yield _question("ocr", text, " ".join(sign.text), [sign], texts)


def _compare(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    twos = [sorted(found, key=lambda thing: thing.side) for found in facts.by_shape.values() if len(found) == 2]
    clear = [
        (smaller, larger)
        for smaller, larger in twos
        if larger.side >= LARGER * smaller.side
        and larger.colour != smaller.colour
        and not facts.tile_like(shape=larger.kind)
    ]
    for smaller, larger in _some(rng, clear, want):
        word, thing = one(rng, (("larger", larger), ("smaller", smaller)))
        text = f"what color is the {word} {thing.kind} ?"
        yield _question("compare", text, thing.colour, [smaller, larger], (smaller.colour, larger.colour))


def _coverage_number(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    if not facts.tiles or "square" in facts.by_shape:
        answer = str(len(facts.by_shape))
        yield _question("coverage-number", "how many different shapes ?", answer, facts.shapes)


def _coverage_missing(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    missing = [shape for shape in SHAPES if shape not in facts.by_shape]
    if len(missing) == 1 and not (facts.tiles and missing == ["square"]):
        yield _question("coverage-missing", "what shape is missing ?", missing[0], facts.shapes, SHAPES)


def _grounding(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    """The row and the column, each from 1, of the cell that holds a shape's middle."""
    for thing in _some(rng, facts.unique, want):
        cells = [_cell(at, length) for at, length in zip(thing.centre, facts.size, strict=True)]
        if all(cells):
            text = f"where is the center of the {thing.colour} {thing.kind} ?"
            yield _question("grounding", text, f"{cells[1]} {cells[0]}", [thing])


def _cell(at: float, length: int) -> int:
    """The number, from 1, of the part of a line in which a point lies; 0 close to where two of them meet."""
    cells, past = divmod(at * CELLS, length)
    return 0 if min(past, length - past) <= INSIDE * CELLS else int(cells) + 1


def _multiturn(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    """A question about one thing, behind one about another thing and its answer."""
    for _ in range(want):
        found = [question for kind in _OF_ONE for question in _SOURCES[kind](facts, rng, 1)]
        pairs = [(first, second) for first in found for second in found if first.boxes != second.boxes]
        if pairs:
            first, second = one(rng, pairs)
            yield second._replace(task="multiturn", kind="multiturn", before=((first.text, first.answer),))


def _side(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    """A help in training alone: half of what *rel* asks for."""
    for thing in _some(rng, facts.unique, want):
        axis = int(rng.integers(2))
        away = thing.centre[axis] - facts.size[axis] / 2
        if abs(away) > SURE:
            word, sign = one(rng, ((("left", -1), ("right", 1)), (("top", -1), ("bottom", 1)))[axis])
            text = f"is the {thing.colour} {thing.kind} {word} ?"
            yield _question("side", text, "yes" if away * sign > 0 else "no", [thing])


def _caption(facts: Facts, rng: Rng, want: int) -> Iterator[Question]:
    """A help in training alone: everything there is, in the order of the visual tokens in the objects' middles."""
    if want:
        ordered = sorted(facts.objects, key=lambda thing: (thing.centre[1] // PATCH, thing.centre[0]))
        named = (" ".join((thing.colour, thing.kind, *thing.text)) for thing in ordered)
        yield _question("caption", "which objects are there ?", " , ".join(named), ordered)


_OF_ONE = ("color", "shape", "where", "digit", "ocr")
"""The kinds whose answer one thing carries."""
_SOURCES = {
    "exist": _exist,
    "count-shape": _count_shape,
    "count-colour": _count_colour,
    "color": _color,
    "shape": _shape,
    "where": _where,
    "rel": _rel,
    "digit": _digit,
    "ocr": _ocr,
    "compare": _compare,
    "coverage-number": _coverage_number,
    "coverage-missing": _coverage_missing,
    "grounding": _grounding,
    "multiturn": _multiturn,
    "side": _side,
    "caption": _caption,
}


def _question(
    kind: str, text: str, answer: str, carriers: Sequence[Object] = (), guesses: tuple[str, ...] = ()
) -> Question:
    return Question(kind.split("-")[0], kind, text, answer, tuple(thing.box for thing in carriers), guesses)
