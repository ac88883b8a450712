"""An endless supply of cluttered scenes with ground truth, the same ones for the same split and seed.

The bundled models were trained on the train split. Pixels may differ in the last bits between versions of Pillow (which
scales photos and draws letters) and of numpy; objects and questions depend on numpy's generator alone.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
from PIL.Image import Image

from greedyprune.testbed.assets import SPLITS
from greedyprune.testbed.drawing import background, draw
from greedyprune.testbed.layout import COUNTS, PATCH, SIZES, Counts, Object, Rng, layout, one
from greedyprune.testbed.questions import FURTHER, TASKS, Question, ask

Size = tuple[int, int]


class Scene(NamedTuple):
    """One picture, its objects, and its questions."""

    image: Image  # RGB
    objects: tuple[Object, ...]
    questions: tuple[Question, ...]


class Item(NamedTuple):
    """One question with its picture. Several items may share one picture, as the same object."""

    image: Image
    question: Question


def scenes(split: str = "test", seed: int = 0, sizes: Sequence[Size] = SIZES[:1]) -> Iterator[Scene]:
    """Scenes without end, in one of the sizes (width, height) each.

    `greedyprune.testbed.assets` says which photos, digits and fonts a split uses.
    """
    _check(split, seed, sizes)
    return _scenes(np.random.default_rng((seed, SPLITS.index(split))), split, sizes)


def sample(
    n: int, split: str = "test", seed: int = 0, tasks: Iterable[str] = TASKS, sizes: Sequence[Size] = SIZES[:1]
) -> list[Item]:
    """n questions, the tasks in turn (so their counts differ by at most one); sample(m) opens sample(n) for m < n.

    `tasks`: names in `TASKS`, or in `FURTHER` for a model that was trained with them.
    """
    tasks, known = tuple(tasks), (*TASKS, *FURTHER)
    unknown = [task for task in tasks if task not in known]
    if unknown or not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"tasks={tasks!r}: name one or more of {', '.join(known)}, each once.")
    if n < 0:
        raise ValueError(f"n={n} is negative: ask for 0 items or more.")
    found = _with_further(scenes(split, seed, sizes), (seed, SPLITS.index(split)), tasks)
    return list(islice(_items(found, tasks), n))


def picture(
    rng: Rng, split: str, size: Size, counts: Counts = COUNTS, hands: int = 1
) -> tuple[Image, tuple[Object, ...]]:
    """A scene before anything is asked about it."""
    objects = layout(rng, split, size, counts, hands)
    return draw(background(rng, split, size), objects, rng), objects


def _check(split: str, seed: int, sizes: Sequence[Size]) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: choose one of {', '.join(SPLITS)}.")
    if seed < 0:
        raise ValueError(f"seed={seed} is negative: choose 0 or more.")
    for size in sizes:
        if any(edge % PATCH or not 112 <= edge <= 224 for edge in size):
            raise ValueError(f"size={size}: both edges must be multiples of {PATCH} from 112 to 224 pixels.")
    if not sizes:
        raise ValueError("sizes is empty: name at least one size, (width, height).")


def _scenes(rng: Rng, split: str, sizes: Sequence[Size]) -> Iterator[Scene]:
    while True:
        size = one(rng, sizes)
        image, objects = picture(rng, split, size)
        yield Scene(image, objects, ask(objects, size, rng))


def _with_further(source: Iterator[Scene], seed: tuple[int, int], tasks: tuple[str, ...]) -> Iterator[Scene]:
    """The scenes, with questions of the further tasks among these. Each has a generator of its own for every scene."""
    for number, scene in enumerate(source):
        more: list[Question] = []
        for place, kind in enumerate(FURTHER, start=1):
            if kind in tasks:
                rng = np.random.default_rng((*seed, place, number))
                more += ask(scene.objects, scene.image.size, rng, {kind: 1})
        yield scene._replace(questions=(*scene.questions, *more))


def _items(source: Iterator[Scene], tasks: tuple[str, ...]) -> Iterator[Item]:
    waiting: dict[str, deque[Item]] = {task: deque() for task in tasks}
    for task in cycle(tasks):
        while not waiting[task]:
            scene = next(source)
            for question in scene.questions:
                if question.task in waiting:
                    waiting[question.task].append(Item(scene.image, question))
        yield waiting[task].popleft()
