"""Does pruning keep the tokens that the answer needs? On fresh test questions, the bundled models say."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import greedyprune as gp
from breadth import some
from greedyprune import testbed
from greedyprune.attach.forward.prefill import Prefill

SEED, QUESTIONS, KEPT = 2026, 200, 16
MARGIN = {"llava": 0.1, "qwen": 0.05}
SIZES = {"llava": testbed.SIZES[:1], "qwen": testbed.SIZES}


@cache
def questions(name: str) -> tuple[object, object, list[testbed.Item]]:
    model, processor = testbed.load(name)
    return model, processor, testbed.sample(QUESTIONS, split="test", seed=SEED, sizes=SIZES[name])


def answers(name: str, asked: list[testbed.Item] | None = None, batch: int = 50) -> list[bool]:
    """Which of the questions the model answers right, as it is now."""
    model, processor, items = questions(name)
    items = items if asked is None else asked
    right: list[bool] = []
    for start in range(0, len(items), batch):
        some = items[start : start + batch]
        inputs = processor(  # type: ignore[operator]
            images=[item.image for item in some],
            text=[testbed.prompt(processor, item.question) for item in some],  # type: ignore[arg-type]
            return_tensors="pt",
            padding=True,
        )
        with torch.no_grad():
            out = model.generate(**inputs, do_sample=False)  # type: ignore[attr-defined]
        told = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)  # type: ignore[attr-defined]
        right += [testbed.correct(item.question, text) for item, text in zip(some, told, strict=True)]
    return right


@pytest.mark.parametrize("name", some(testbed.MODELS, "llava"))
def test_a_ninth_of_the_tokens_answers_nine_tenths_of_what_all_tokens_answer(name: str) -> None:
    model, _, _ = questions(name)
    dense = answers(name)
    assert sum(dense) >= 0.95 * QUESTIONS
    with gp.prune(model, gp.GreedyPrune(), keep=KEPT) as pruned:
        kept = answers(name)
        assert all(s.n in (140, 143, 144) and s.k == KEPT for s in pruned.selections)
        assert pruned.report().at == "layer:2"
    still = sum(k for k, d in zip(kept, dense, strict=True) if d)
    assert still >= 0.90 * sum(dense)
    # The test can fail: as few tokens, chosen without looking, answer clearly fewer.
    with gp.prune(model, gp.Random(), keep=KEPT):
        drawn = answers(name)
    assert sum(drawn) < sum(kept) - MARGIN[name] * QUESTIONS


def test_wrong_positions_lose_where_things_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept tokens with the positions of other kept tokens: the mistake of a cut that sorts one and not the other.

    On the model that goes by positions: the other one has learned to read places off the tokens themselves.
    """
    name = "llava"
    model, _, _ = questions(name)
    where = testbed.sample(60, split="dev", seed=1, tasks=["where"], sizes=SIZES[name])
    own = Prefill._cut_input

    def scrambled(work: Prefill, arguments: dict[str, Any]) -> None:
        positions = work.text.own_positions(arguments["inputs_embeds"].device).clone()
        for span in work.prompt.spans:
            positions[..., span.row, span.columns] = positions[..., span.row, span.columns.flip(0)]
        work.text.positions = positions
        own(work, arguments)

    with gp.prune(model, gp.Random(), keep=120, at=gp.Input()):
        right = answers(name, where)
        monkeypatch.setattr(Prefill, "_cut_input", scrambled)
        wrong = answers(name, where)
    assert sum(right) >= 50
    assert sum(wrong) <= sum(right) - 8
