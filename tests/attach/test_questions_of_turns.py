"""The question that a method is shown about an image: that of the image's own turn, the rows of `gp.question_rows`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import greedyprune as gp
import proofs
from field import prompt_of
from greedyprune.models.parts import find_parts
from looks import all_near, asking
from proofs import MODEL, forward
from tiny import IMAGE, tiny

pytestmark = pytest.mark.usefixtures("untouched")

IMG, END, OTHER = [IMAGE] * 16, 30, 31
FIRST = [5, *IMG, 6, *IMG, 7, 8, END]
"""A turn about two images."""
ANSWER = [9, 10, END]
SECOND = [11, *IMG, 12, 13, END]
ALONE = [14, 15, END, 16]
"""A turn without an image."""
BEFORE = [17, 18, *IMG, END, 16]
"""A turn whose question stands in front of its image."""

places = pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2), gp.Layers((1, 3))], ids=str)


@pytest.fixture(params=[END, [OTHER, END]], ids=["one", "list"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(MODEL.generation_config, "eos_token_id", request.param)
    return request.param


def shown(inputs: dict[str, Tensor], at: gp.Stage) -> list[gp.Cues]:
    """The cues of every image at every cut."""
    seen: list[gp.Cues] = []

    def look(cues: gp.Cues, k: int) -> gp.Keep:
        seen.append(cues)
        rows = torch.arange(cues.n).flip(0)[:k]  # the last token of a prompt must stay
        return gp.Keep.from_order(rows, torch.zeros(k), cues.n)

    keep: Any = gp.PerLayer({1: 9, 3: 3}) if at == gp.Layers((1, 3)) else 3
    with gp.prune(MODEL, proofs.Custom(choose=look), keep, at=at):
        forward(MODEL, inputs)
    return seen


def asked(inputs: dict[str, Tensor], at: gp.Stage) -> list[list[int]]:
    """The token ids of the question of every image at every cut."""
    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    texts = [row[mine & (row != IMAGE)] for row, mine in zip(ids, valid, strict=True)]
    rows = [row for row, each in enumerate(ids.tolist()) for _ in range(each.count(IMAGE) // 16)]
    found = shown(inputs, at)
    assert len(found) % len(rows) == 0
    owners = rows * (len(found) // len(rows))
    assert all(len(cues.text) == len(texts[row]) for cues, row in zip(found, owners, strict=True))
    return [texts[row][cues.question].tolist() for cues, row in zip(found, owners, strict=True)]


def expected(inputs: dict[str, Tensor], end: Any, at: gp.Stage) -> list[list[int]]:
    """The same, as the public function says it of the token ids."""
    ids, padding = inputs["input_ids"], inputs["attention_mask"] == 0
    found = gp.question_rows(ids, ids == IMAGE, end, padding)
    once = [ids[row, columns].tolist() for row, mine in enumerate(found) for columns in mine]
    return once * (2 if at == gp.Layers((1, 3)) else 1)


@places
@pytest.mark.parametrize(
    ("ids", "questions"),
    [
        (FIRST, [[7, 8], [7, 8]]),
        ([*FIRST, *ANSWER, *ALONE], [[7, 8], [7, 8]]),
        ([*FIRST, *ANSWER, *SECOND, 9], [[7, 8], [7, 8], [12, 13]]),
        ([*SECOND, *ANSWER, *BEFORE], [[12, 13], [17, 18]]),
        ([5, *IMG, 6, 7], [[6, 7]]),
    ],
    ids=["first turn", "later text", "later image", "question in front", "no end"],
)
def test_a_question_is_that_of_the_images_own_turn(ids, questions, ends, at) -> None:
    count = ids.count(IMAGE) // 16
    inputs = prompt_of(ids, (tuple(range(count)),))
    found = asked(inputs, at)
    assert found == expected(inputs, ends, at)
    assert found[:count] == questions


@places
def test_prompts_of_a_batch_have_their_own_questions(ends, at) -> None:
    long, short = [*FIRST, *ANSWER, *ALONE], [*SECOND, 9]
    ids = torch.tensor([long, [END] * (len(long) - len(short)) + short])  # padding is often the end of an answer
    mask = torch.ones_like(ids)
    mask[1, : len(long) - len(short)] = 0
    inputs = {**proofs.MADE.prompt(((0, 1), (2,))), "input_ids": ids, "attention_mask": mask}
    found = asked(inputs, at)
    assert found == expected(inputs, ends, at)
    assert found[:3] == [[7, 8], [7, 8], [12, 13]]


def test_all_text_is_the_question_of_a_turn_without_text(ends) -> None:
    ids = [5, 6, END, *IMG, END, 7]
    assert asked(prompt_of(ids), gp.Input()) == [[5, 6, END, END, 7]]


@places
def test_a_later_turn_changes_what_a_method_keeps_only_if_it_reads_the_chat(ends, at) -> None:
    first, other = ([*FIRST, *ANSWER, asks, 15, END, 16] for asks in (14, 40))
    for text, changed in (("question_max", False), ("chat_max", True)):
        method = gp.SoftGreedyPrune(text=text, preprocess="none")  # type: ignore[arg-type]
        keep: Any = gp.PerLayer({1: 9, 3: 3}) if at == gp.Layers((1, 3)) else 3
        kept: list[list[list[int]]] = []
        for ids in (first, other):
            with gp.prune(MODEL, method, keep, at=at) as handle:
                forward(MODEL, prompt_of(ids, ((0, 1),)))
            kept.append([each.order.tolist() for each in handle.selections])
        assert (kept[0] != kept[1]) is changed


def test_the_questions_attention_is_that_of_the_tokens_that_ask(ends) -> None:
    ids = [*FIRST, *ANSWER, *SECOND, 9]
    inputs, visual = prompt_of(ids, ((0, 1, 2),)), torch.tensor(ids) == IMAGE
    weights = forward(tiny("llava", "eager").model, inputs, output_attentions=True).attentions[1][0].mean(0)
    questions = gp.question_rows(inputs["input_ids"], visual[None], ends)[0]
    images = visual.nonzero()[:, 0].reshape(3, 16)
    seen: list[Tensor] = []
    with gp.prune(MODEL, asking(seen, gp.Attention("question"), gp.Layer(2)), 9):
        forward(MODEL, inputs)
    all_near(seen, [weights[asked][:, image].mean(0) for asked, image in zip(questions, images, strict=True)])


@pytest.mark.parametrize(
    ("generation", "text", "found"), [(None, 7, [7]), (None, None, []), (5, 7, [5]), ([5, 6], 7, [5, 6])]
)
def test_the_end_of_a_turn_is_the_end_of_an_answer(generation, text, found, monkeypatch) -> None:
    parts = find_parts(MODEL)
    monkeypatch.setattr(MODEL.generation_config, "eos_token_id", generation)
    monkeypatch.setattr(parts.text.config, "eos_token_id", text)
    assert parts.ends == found
