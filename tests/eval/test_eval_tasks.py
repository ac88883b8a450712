"""What is evaluated: configurations, the oracle, answer regions, scoring, and a user's own folder of questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import greedyprune as gp
from greedyprune import testbed
from greedyprune.budget import Ratio
from greedyprune.eval import Item, configurations
from greedyprune.eval.configs import Oracle, evenly
from greedyprune.eval.folder import Folder
from greedyprune.eval.regions import tokens_of
from greedyprune.eval.scenes import Scenes

NINTH = {"1/9": Ratio(1 / 9)}


def test_configurations_are_all_combinations_with_keys_of_their_own() -> None:
    methods = ["saliency", gp.GreedyPrune(tau=0.9), "random", "pool", "downscale", "oracle"]
    configs = configurations(methods, {"1/4": Ratio(0.25), "16": 16}, [gp.Layer(1), gp.Layer(2)], seeds=(0, 1, 2))
    assert configs[0].name == "dense"
    assert len(configs) == 1 + 2 * (2 * (1 + 1 + 3 + 1) + 2)  # pooling and down-scaling have one place each
    assert len({config.key for config in configs}) == len(configs)
    assert {config.options for config in configs if config.name == "greedyprune"} == {'{"tau": 0.9}'}
    assert {config.place for config in configs if config.name == "downscale"} == {"image"}
    with pytest.raises(ValueError, match="there is no method 'nothing'"):
        configurations(["nothing"], NINTH)


def test_the_oracle_keeps_regions_first_and_spreads_the_rest() -> None:
    x = torch.zeros(144, 4)
    given = torch.tensor([0, 1, 50])
    keep = gp.select(Oracle(), gp.Cues(x, grid=(1, 12, 12), protect=given), 16)
    assert keep.order[:3].tolist() == [0, 1, 50]
    others = keep.order[3:]
    assert others.min() < 36 and others.max() >= 108  # noqa: PT018
    plain = gp.select(Oracle(), gp.Cues(x, grid=(1, 12, 12)), 16)
    assert torch.equal(plain.rows, gp.select("grid", gp.Cues(x, grid=(1, 12, 12)), 16).rows)
    assert evenly(torch.arange(10), 3).tolist() == [1, 5, 8]
    assert evenly(torch.arange(2), 5).tolist() == [0, 1]
    assert evenly(torch.arange(0), 0).tolist() == []


def test_regions_are_those_of_the_testbed() -> None:
    for extra in ("sklearn", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    kinds = ("count", "color", "where", "ocr")
    asked = testbed.sample(12, "test", 5, kinds)
    for item, (image, question) in zip(Scenes(3, seed=5, tasks=kinds).items(), asked, strict=True):
        assert item.text == question.text
        found = tokens_of(item.boxes, (1, 12, 12), (0, 0, *image.size))
        assert found.tolist() == testbed.answer_patches(question), item.name
    assert tokens_of(((0, 0, 10, 10),), (1, 2, 2), (10, 0, 30, 20)).tolist() == []
    assert tokens_of(((0, 0, 15, 10),), (1, 2, 2), (10, 0, 30, 20)).tolist() == [0]
    assert tokens_of(((0, 0, 15, 10),), None, (0, 0, 1, 1)).tolist() == []


def test_answers_are_compared_word_for_word() -> None:
    item = Item("a", "t", None, "p", "?", ("top left", "Upper left."), guesses=("top left", "no"))
    assert item.right(" Top  LEFT.")
    assert item.right("upper left")
    assert not item.right("top")
    assert not item.right("it is top left")
    assert not item.right("")
    assert item.guess_rate == 0.5


def test_a_folder_of_questions(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "x.png")
    good = {"image": "x.png", "question": "what ?", "answer": ["a", "b"], "boxes": [[0, 0, 5, 5]], "task": "t"}
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(good) + "\n\n" + json.dumps({**good, "task": "u", "answer": 3}) + "\n")
    first, second = Folder(tmp_path).items()
    assert (first.name, first.task, first.answers, first.boxes) == (
        "questions.jsonl:1",
        "t",
        ("a", "b"),
        ((0, 0, 5, 5),),
    )
    assert (second.name, second.answers, second.picture) == ("questions.jsonl:3", ("3",), first.picture)
    assert first.open().size == (20, 10)
    assert len(Folder(tmp_path, 1).items()) == 2
    for change, words in (
        ({"image": "y.png"}, "names the image 'y.png', which is not in"),
        ({"boxes": [[5, 0, 0, 5]]}, "has the box"),
        ({"anwser": "a"}, "unknown field 'anwser'"),
    ):
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=rf"questions.jsonl:1 .*{words}"):
            Folder(tmp_path).items()
    file.write_text('{"image": "x.png"}')
    with pytest.raises(ValueError, match='needs "image", "question" and "answer"'):
        Folder(tmp_path).items()
    file.unlink()
    with pytest.raises(ValueError, match=r"needs exactly one .jsonl file"):
        Folder(tmp_path).items()
