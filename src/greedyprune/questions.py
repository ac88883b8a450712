"""Questions: find the tokens of a prompt that ask about each of its images, by token ids alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from greedyprune.checks import check_tensor


def question_rows(
    ids: Tensor, visual: Tensor, end: int | Sequence[int | Sequence[int]], padding: Tensor | None = None
) -> list[list[Tensor]]:
    """The columns of each image's question: the text after the last image of its user turn, up to the turn's end.

        ids, visual = inputs["input_ids"], inputs["input_ids"] == image_token_id
        (rows,) = question_rows(ids[0], visual[0], end=tokenizer.eos_token_id)

    - `ids`: one prompt, (q,), or a batch, (b, q).
    - `visual`, of the same shape: True for visual tokens (each unbroken run is one image), or the number of each
      token's image, -1 for text.
    - `end`: the end of a user turn, a token id such as that of `<|im_end|>`; or a list of ids, or of sequences of ids
      such as those of "ASSISTANT:". The first one that appears counts.
    - `padding`: True for padding.

    Returns one list per prompt with one tensor per image, in the order of the images. It holds the question's columns,
    ascending, without the end itself. Later turns change none of them. If no text follows the images of a turn, the
    question is the turn's text before them. A turn without an end reaches to the end of the prompt. Raises TypeError
    or ValueError if shapes or types do not fit.
    """
    check_tensor("ids", ids, what="a (q,) or (b, q) int64")
    check_tensor("visual", visual, what="a (q,) or (b, q) bool")
    if ids.ndim not in (1, 2) or ids.is_floating_point():
        raise ValueError(f"ids has shape {tuple(ids.shape)} and type {ids.dtype}: pass (q,) or (b, q) token ids.")
    if padding is None:
        padding = torch.zeros_like(ids, dtype=torch.bool)
    check_tensor("padding", padding, what="a (q,) or (b, q) bool")
    for name, given in (("visual", visual), ("padding", padding)):
        if given.shape != ids.shape or given.is_floating_point() or (name == "padding" and given.dtype != torch.bool):
            raise ValueError(
                f"{name} has shape {tuple(given.shape)} and type {given.dtype}: pass one bool per id, "
                f"{tuple(ids.shape)}."
            )
    marks = _marks(end)
    one, two, three = (each.cpu().reshape(-1, ids.shape[-1]) for each in (ids, visual, padding))
    return [questions_of(*row, marks) for row in zip(one, two, three, strict=True)]


def questions_of(ids: Tensor, visual: Tensor, padding: Tensor, marks: Sequence[Sequence[int]]) -> list[Tensor]:
    """The columns of the question of each image of one prompt, as `question_rows` says. (q,) -> (images) x (r,)

    `marks`: the sequences of ids that end a turn. If there are none, the prompt is one turn.
    """
    image = _numbers(visual) if visual.dtype == torch.bool else visual
    image = torch.where(padding, image.new_full((), -1), image)
    starts, stops = _turns(ids, marks)
    found: list[Tensor] = []
    for number in sorted(set(cast("list[int]", cast("Any", image[image >= 0]).tolist()))):
        last = int((image == number).nonzero()[-1, 0])
        stop = next((start for start in starts if start > last), ids.shape[0])
        begin = max((after for start, after in zip(starts, stops, strict=True) if start < last), default=0)
        turn = torch.arange(begin, stop, device="cpu")
        seen = (image[turn] >= 0).nonzero()[-1, 0]
        text = turn[(image[turn] < 0) & ~padding[turn]]
        behind = text[text > turn[seen]]
        found.append(behind if behind.numel() else text)
    return found


def _marks(end: object) -> list[list[int]]:
    """The sequences of ids that end a turn."""
    given = [end] if isinstance(end, int) else list(cast("Sequence[object]", end)) if isinstance(end, Sequence) else []
    marks = [list(cast("Sequence[int]", each)) if isinstance(each, Sequence) else [each] for each in given]
    if not marks or not all(mark and all(type(number) is int for number in mark) for mark in marks):
        raise ValueError(
            f"end={end!r} ends no turn: write the id of the token that ends a user turn, or a list of ids."
        )
    return cast("list[list[int]]", marks)


def _numbers(visual: Tensor) -> Tensor:
    """The number of each visual token's run, -1 for text. (q,) bool -> (q,)"""
    first = visual & ~torch.cat([visual.new_zeros(1), visual[:-1]])
    return torch.where(visual, first.cumsum(0) - 1, -1)


def _turns(ids: Tensor, marks: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """The columns where marks begin, ascending, and the column after each mark."""
    every, found = cast("list[int]", cast("Any", ids).tolist()), list[tuple[int, int]]()
    for mark in marks:
        size = len(mark)
        found += [(at, at + size) for at in range(len(every) - size + 1) if every[at : at + size] == [*mark]]
    found.sort()
    return [start for start, _ in found], [after for _, after in found]
