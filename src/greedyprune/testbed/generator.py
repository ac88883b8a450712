"""An endless supply of cluttered scenes with ground truth, the same ones for the same split and seed.

The distribution is the one the bundled model was trained on. Pixels may differ in the last bits between versions of
Pillow (which scales photos and draws letters); objects and questions depend on numpy's generator alone.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
from PIL.Image import Image

from greedyprune.testbed.assets import SPLITS, handwriting, photos
from greedyprune.testbed.drawing import background, draw
from greedyprune.testbed.layout import Object, layout
from greedyprune.testbed.questions import TASKS, Question, ask


@dataclass(frozen=True)
class Scene:
    """One picture, what is in it, and what can be asked about it."""

    image: Image  # 168 x 168, RGB
    objects: tuple[Object, ...]
    questions: tuple[Question, ...]


class Item(NamedTuple):
    """One question with its picture. Several items may share one picture, as the same object."""

    image: Image
    question: Question


def scenes(split: str = "test", seed: int = 0) -> Iterator[Scene]:
    """Scenes without end. `greedyprune.testbed.assets` says which photos and digits a split uses."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: choose one of {', '.join(SPLITS)}.")
    if seed < 0:
        raise ValueError(f"seed={seed} is negative: choose 0 or more.")
    return _scenes(split, seed)


def sample(n: int, split: str = "test", seed: int = 0, tasks: Iterable[str] = TASKS) -> list[Item]:
    """n questions, the tasks in turn (so their counts differ by at most one); sample(m) opens sample(n) for m < n."""
    tasks = tuple(tasks)
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"tasks={tasks!r}: name one or more of {', '.join(TASKS)}, each once.")
    if n < 0:
        raise ValueError(f"n={n} is negative: ask for 0 items or more.")
    return list(islice(_items(scenes(split, seed), tasks), n))


def _scenes(split: str, seed: int) -> Iterator[Scene]:
    rng = np.random.default_rng((seed, SPLITS.index(split)))
    while True:
        canvas = background(rng, photos(split))
        objects = layout(rng, handwriting(split))
        image = draw(canvas, objects, rng)
        yield Scene(image, objects, ask(objects, rng))


def _items(source: Iterator[Scene], tasks: tuple[str, ...]) -> Iterator[Item]:
    waiting: dict[str, deque[Item]] = {task: deque() for task in tasks}
    for task in cycle(tasks):
        while not waiting[task]:
            scene = next(source)
            for question in scene.questions:
                if question.task in waiting:
                    waiting[question.task].append(Item(scene.image, question))
        yield waiting[task].popleft()
