"""The scenes of the testbed as a task: synthetic pictures, and questions about them with known answer regions.

    from greedyprune.eval.scenes import Scenes

    items = Scenes(questions=20, split="dev", tasks=("count", "ocr")).items()

Needs the extra `greedyprune[testbed]`; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greedyprune import testbed
from greedyprune.eval.items import Item
from greedyprune.ops.grid import Box


@dataclass(frozen=True)
class Scenes:
    """Questions about scenes. The same arguments give the same questions everywhere."""

    questions: int
    """The number of questions of each task."""
    split: str = "test"
    """train, dev or test; splits share no photo, no handwritten digit and no font."""
    seed: int = 0
    tasks: Sequence[str] = ()
    """Names in `testbed.TASKS` or `testbed.FURTHER`; all `testbed.TASKS` if empty."""
    native: bool = False
    """True draws scenes of several sizes, for models that take images of any size; False draws 168 x 168 pixels."""

    def items(self) -> list[Item]:
        """One item per question. Raises ImportError if a package of the extra is missing."""
        tasks = tuple(self.tasks) or testbed.TASKS
        sizes = testbed.SIZES if self.native else testbed.SIZES[:1]
        found = testbed.sample(self.questions * len(tasks), self.split, self.seed, tasks, sizes)
        pictures = {id(image): number for number, (image, _) in enumerate(found)}
        return [
            Item(
                f"{self.split}-{self.seed}-{number} ({question.task})",
                question.task,
                image,
                f"{self.split}-{self.seed}-{pictures[id(image)]}",
                question.text,
                tuple(dict.fromkeys((question.answer, testbed.spelled(question.answer)))),
                _boxes(question.boxes),
                question.guesses,
                _boxes(question.others),
                question.before,
            )
            for number, (image, question) in enumerate(found)
        ]


def _boxes(found: Sequence[tuple[int, int, int, int]]) -> tuple[Box, ...]:
    return tuple((float(left), float(top), float(right), float(bottom)) for left, top, right, bottom in found)
