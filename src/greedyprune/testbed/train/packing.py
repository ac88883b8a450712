"""Many questions about one picture in one row: each turn sees the picture and itself, as if it stood alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from greedyprune.testbed.layout import Rng
from greedyprune.testbed.questions import Question
from greedyprune.testbed.train.vocabulary import encode

IGNORED = -100


class Wording(Protocol):
    """How a model is asked, and how it answers, in token ids."""

    @property
    def again(self) -> tuple[int, ...]:
        """Between an answer with its end and the next question about the same picture."""
        ...

    def prompt(self, question: str) -> list[int]:
        """The question, and what stands between it and the answer."""
        ...

    def answer(self, answer: str) -> list[int]:
        """The answer, and what ends it."""
        ...


@dataclass(frozen=True)
class Words:
    """The wording of the bundled models: whole words."""

    ask: tuple[int, ...]
    """Between question and answer."""
    end: int
    """Behind the answer."""
    again: tuple[int, ...] = ()
    """In front of a further question about the same picture."""

    def prompt(self, question: str) -> list[int]:
        return [*encode(question), *self.ask]

    def answer(self, answer: str) -> list[int]:
        return [*encode(answer), self.end]


class Turn(NamedTuple):
    """The place of one question's answer in its row."""

    kind: str
    first: int
    length: int


class Packed(NamedTuple):
    """A batch of rows of turns. Tensors are (b, length)."""

    ids: Tensor
    targets: Tensor  # the token after each place, where it belongs to an answer; IGNORED elsewhere
    turn: Tensor  # which turn a token belongs to; -1 for padding
    offset: Tensor  # places since the start of its turn
    turns: list[list[Turn]]


def pack(
    questions: Sequence[Sequence[Question]],
    rng: Rng,
    length: int,
    weights: Mapping[str, float],
    wording: Wording,
) -> Packed:
    """As many turns as fit, those of a larger weight more often. A turn: the prompt of a question, then its answer.

    A question that has turns before it stands behind them; they are part of its turn, and only its answer is a target.
    """
    arrays = np.zeros((4, len(questions), length), np.int64)
    arrays[1] = IGNORED
    arrays[2] = -1
    turns = [_row(arrays[:, i], row, rng, weights, wording) for i, row in enumerate(questions)]
    ids, targets, turn, offset = torch.from_numpy(arrays)
    return Packed(ids, targets, turn, offset, turns)


def _row(
    out: np.ndarray, questions: Sequence[Question], rng: Rng, weights: Mapping[str, float], wording: Wording
) -> list[Turn]:
    # Weighted sampling without replacement: the largest of u^(1/w) first.
    keys = np.log(rng.random(len(questions))) / [weights[question.kind] for question in questions]
    used, turns = 0, []
    for i in np.argsort(-keys):
        question, answer = _prompt(questions[i], wording), wording.answer(questions[i].answer)
        total = len(question) + len(answer)
        if used + total > out.shape[1]:
            continue
        first = used + len(question) - 1
        out[0, used : used + total] = question + answer
        out[1, first : first + len(answer)] = answer
        out[2, used : used + total] = len(turns)
        out[3, used : used + total] = np.arange(total)
        turns.append(Turn(questions[i].kind, first, len(answer)))
        used += total
    return turns


def _prompt(question: Question, wording: Wording) -> list[int]:
    """The turns before a question, and its own prompt."""
    ids: list[int] = []
    for asked, answer in question.before:
        ids += [*wording.prompt(asked), *wording.answer(answer), *wording.again]
    return ids + wording.prompt(question.text)


def visible(turn: Tensor, before: int) -> Tensor:
    """The attention mask;

    `before` tokens come first and all turns see them. (b, length) -> (b, 1, before + length, same)
    """
    b, length = turn.shape
    seen = torch.ones(before + length, before + length, dtype=torch.bool, device=turn.device).tril().repeat(b, 1, 1)
    seen[:, before:, before:] &= turn[:, :, None] == turn[:, None, :]
    return seen[:, None]
