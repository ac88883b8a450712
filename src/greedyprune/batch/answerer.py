"""The answerer: a pruned model that answers rows. A row that cannot be answered costs no other row its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from greedyprune.attach.handle import prune
from greedyprune.batch.rows import Row, id_of, open_image, row_of
from greedyprune.preprocessing.inputs import chat, check_question, padded_left, to_model

if TYPE_CHECKING:
    from PIL import Image

    from greedyprune.attach.request import Request
    from greedyprune.policy import Policy


@dataclass(frozen=True)
class Job:
    """What is done with every row. It can be pickled, so that workers make their own model from it."""

    load: Callable[[], tuple[Any, Any]]
    """Makes the model and its processor. A function of a module, or a `functools.partial` of one."""
    policy: Policy
    """The pruning of rows that wish nothing else."""
    root: Path
    """The folder that paths of images start from."""
    question: str | None = None
    """The question for rows that have none."""
    max_new_tokens: int = 64
    together: int = 1
    """The largest number of rows in one call of `generate`."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """A row with its images."""

    number: int
    row: Row
    images: list[Image.Image]
    request: Request


class Answerer:
    """A pruned model that answers rows.

        answerer = Answerer(job)
        answerer.answer(0, [{"image": "a.png", "question": "what is it ?"}])
        # [{"id": 0, "answer": "a cup", "error": None, "visual_tokens": 576, "kept": 64}]

    Raises what the model's loading and `gp.prune` raise.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model, self.processor = job.load()
        self.pruned = prune(self.model, job.policy)

    def answer(self, first: int, given: Sequence[Mapping[str, Any] | str]) -> list[dict[str, Any]]:
        """Answer rows. -> one record per row, in their order; `first` is the number of the first row.

        A record has the `id`, the `answer` or None, the `error` or None, and the visual tokens of the row's images
        before (`visual_tokens`) and after (`kept`) the last cut.
        """
        records: dict[int, dict[str, Any]] = {}
        ready: list[_Asked] = []
        for number, row in enumerate(given, start=first):
            try:
                ready.append(self._asked(number, row))
            except Exception as error:  # whatever a stranger's row or picture makes the libraries raise
                records[number] = _failed(_id(row, number), error)
        for group in _groups(ready, self.job.together):
            records.update(self._answered(group))
        return [records[number] for number in range(first, first + len(given))]

    def _asked(self, number: int, given: Mapping[str, Any] | str) -> _Asked:
        if isinstance(given, str):
            raise ValueError(given)
        row = row_of({"id": number, **given}, self.job.root, self.job.question)
        check_question(row.question, self.processor)
        return _Asked(number, row, [open_image(image) for image in row.images], self.pruned.request(**row.wish))

    def _answered(self, group: list[_Asked]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Answer rows together. If that fails, each is answered alone."""
        try:
            yield from zip([one.number for one in group], self._generate(group), strict=True)
        except Exception as error:
            if len(group) == 1:
                yield group[0].number, _failed(group[0].row.id, error)
                return
            for one in group:
                again = _Asked(one.number, one.row, one.images, self.pruned.request(**one.row.wish))
                yield from self._answered([again])

    def _generate(self, group: list[_Asked]) -> list[dict[str, Any]]:
        text = [
            self.processor.apply_chat_template(
                chat(one.row.question, images=len(one.images)), add_generation_prompt=True
            )
            for one in group
        ]
        images = [image for one in group for image in one.images]
        with padded_left(self.processor):
            made = self.processor(images=images or None, text=text, return_tensors="pt", padding=True)
        inputs, request = to_model(made, self.model), group[0].request
        with torch.inference_mode():
            out = request.generate(**inputs, max_new_tokens=self.job.max_new_tokens, do_sample=False)
        told = self.processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        selections = iter(request.selections)
        records: list[dict[str, Any]] = []
        for one, answer in zip(group, told, strict=True):
            mine = [next(selections) for _ in one.images]
            counts = {"visual_tokens": sum(each.n for each in mine), "kept": sum(each.k for each in mine)}
            records.append({"id": one.row.id, "answer": answer.strip(), "error": None, **counts})
        return records


def _groups(asked: Sequence[_Asked], together: int) -> Iterator[list[_Asked]]:
    """Rows that share a call of `generate`: neighbours with one policy, at most `together` of them."""
    group: list[_Asked] = []
    for one in asked:
        if group and (len(group) == together or not _share(group[0], one)):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _share(one: _Asked, other: _Asked) -> bool:
    """True if two rows may share a call. A list of budgets is for the images of one row."""
    policy = one.request.policy
    return (
        policy == other.request.policy and not isinstance(policy.keep, tuple) and bool(one.images) == bool(other.images)
    )


def _id(given: Mapping[str, Any] | str, number: int) -> int | str:
    """The id of a row that failed; its number if it has no id that can be written."""
    try:
        return number if isinstance(given, str) else id_of({"id": number, **given})
    except TypeError:
        return number


def _failed(name: int | str, error: Exception) -> dict[str, Any]:
    told = (
        str(error) if isinstance(error, (ValueError, TypeError)) and str(error) else f"{type(error).__name__}: {error}"
    )
    return {"id": name, "answer": None, "error": told, "visual_tokens": 0, "kept": 0}
