"""Two configurations on the same questions: their difference, its interval, and how many answers changed."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import greedyprune as gp
from greedyprune.cli.app import app
from greedyprune.eval import Answers, Config, Item, paired


def answers(first: list[bool], second: list[bool], tasks: list[str]) -> tuple[Answers, Config, Config]:
    """Two configurations that answered these questions right, one picture each."""
    items = [Item(str(i), task, None, str(i), "?", ("yes",)) for i, task in enumerate(tasks)]
    configs = [Config("greedyprune", gp.GreedyPrune(), gp.Ratio(share)) for share in (0.5, 0.25)]
    scores = (torch.tensor(first).double(), torch.tensor(second).double())
    columns = {config.key: {"score": score} for config, score in zip(configs, scores, strict=True)}
    return Answers(items, configs, columns), *configs


def test_the_difference_is_the_mean_over_the_tasks() -> None:
    found = paired(*answers([True, True, False, False], [True, False, True, True], ["a", "a", "a", "b"]))
    assert (found.questions, found.changed) == (4, 3)
    assert found.first == pytest.approx((2 / 3 + 0) / 2)
    assert found.second == pytest.approx((2 / 3 + 1) / 2)
    assert found.difference == pytest.approx(0.5)
    assert found.low <= found.difference <= found.high


def test_equal_answers_have_no_interval_and_many_questions_a_narrow_one() -> None:
    right = [i % 3 > 0 for i in range(300)]
    same = paired(*answers(right, right, ["a"] * 300))
    assert (same.changed, same.difference, same.low, same.high) == (0, 0.0, 0.0, 0.0)
    few = paired(*answers(right[:30], [not each for each in right[:30]], ["a"] * 30))
    many = paired(*answers(right, [not each for each in right], ["a"] * 300))
    assert many.low < many.difference < many.high
    assert many.high - many.low < few.high - few.low


def test_a_sample_of_all_tokens_changes_no_answer() -> None:
    told = CliRunner().invoke(
        app,
        [
            *("bench", "quantile", "--model", "llava", "--questions", "1", "--keep", "1/9"),
            *("--rows", "24", "--rows", "144", "--json"),
        ],
    )
    assert told.exit_code == 0, told.output
    some, every = json.loads(told.stdout)
    assert (some["rows"], some["tokens_high"], every["rows"]) == (24, 144, 144)
    assert (every["changed"], every["difference"]) == (0, 0.0)
    assert some["questions"] == 10
