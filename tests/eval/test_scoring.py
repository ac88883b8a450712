"""Metrics and public sets: an answer is scored as the set's paper says, and a file that cannot be asked is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from greedyprune.eval.items import Item, asked, checked
from greedyprune.eval.public import Public
from greedyprune.eval.scoring import METRICS, check_metric, score

HUMANS = ("red", "red", "dark red", "Red.", "maroon", "red", "red", "red", "red", "red")


@pytest.mark.parametrize(
    ("metric", "told", "answers", "points"),
    [
        ("exact", "The Red.", ("the red",), 1),
        ("exact", "it is red", ("red",), 0),
        ("contains", "The cross is dark red.", ("dark red",), 1),
        ("contains", "The reddish cross", ("red",), 0),
        ("contains", "red and dark", ("dark red",), 0),
        ("contains", "anything", ("",), 0),
        ("yes_no", "Yes, there is no dog.", ("yes",), 1),
        ("yes_no", "There is not.", ("no",), 1),
        ("yes_no", "a dog", ("no",), 0),
        ("number", "There are 1,200 of them.", ("1200",), 1),
        ("number", "three", ("3",), 1),
        ("number", "30", ("3",), 0),
        ("number", "none that I see: 2", ("x",), 0),
        ("relaxed", "$10.4", ("10",), 1),
        ("relaxed", "10.6 %", ("10",), 0),
        ("relaxed", "0.1", ("0",), 0),
        ("relaxed", "Red", ("red",), 1),
        ("relaxed", "about 10", ("10",), 0),
        ("anls", "hello", ("hello", "x"), 1),
        ("anls", "Hallo", ("hello",), 0.8),
        ("anls", "help", ("hello",), 0.6),
        ("anls", "world", ("hello",), 0),
        ("anls", "", ("",), 1),
        ("vqa", "red", HUMANS, 1),
        ("vqa", "the maroon", HUMANS, 0.3),
        ("vqa", "two", ("2",), 1),
        ("vqa", "a dog", ("cat", "dog"), 1),
        ("vqa", "dog", ("cat",) * 8 + ("dog",) * 2, 0.6),
    ],
)  # fmt: skip
def test_answers_are_scored_by_the_rule(metric: str, told: str, answers: tuple[str, ...], points: float) -> None:
    assert score(metric, told, answers) == pytest.approx(points)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_said_is_worth_nothing_and_a_right_answer_everything(metric: str) -> None:
    answers = {"yes_no": ("yes",), "number": ("12",)}.get(metric, ("a red fox",))
    assert score(metric, "", answers) == 0
    assert score(metric, answers[0], answers) == 1


def test_another_metric_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no metric 'rouge': choose one of exact, contains"):
        check_metric("rouge")


def test_a_template_and_a_metric_change_how_it_is_asked_and_scored() -> None:
    item = Item("one", "t", None, "p", "What {x} is it?", ("red",))
    (found,) = asked([item], "Look. {question}\nOne word.", "contains")
    assert found.text == "Look. What {x} is it?\nOne word."
    assert (item.right("It is red."), found.right("It is red.")) == (False, True)
    with pytest.raises(ValueError, match="no answer that the metric 'number' calls right: red"):
        checked(asked([item], metric="number"))


SETS: dict[str, tuple[Any, str, str, tuple[str, ...], str]] = {
    "POPE": (
        [{"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}] * 2,
        "a.jpg", "Is there a dog?", ("yes",), "yes_no",
    ),
    "TextVQA": (
        {"data": [{"question_id": 1, "question": "brand?", "image_id": "a", "answers": list(HUMANS)}]},
        "train_images/a.jpg", "brand?", HUMANS, "vqa",
    ),
    "GQA": (
        {"07": {"question": "Is it overcast?", "imageId": "a", "answer": "no", "isBalanced": True}},
        "images/a.jpg", "Is it overcast?", ("no",), "exact",
    ),
    "ChartQA": (
        [{"imgname": "a.jpg", "query": "How many?", "label": "14"}],
        "png/a.jpg", "How many?", ("14",), "relaxed",
    ),
    "DocVQA": (
        {"data": [{"questionId": 1, "question": "date?", "image": "documents/a.jpg", "answers": ["1/8", "8 Jan"]}]},
        "a.jpg", "date?", ("1/8", "8 Jan"), "anls",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_the_usual_file_of_a_set_is_read(name: str, tmp_path: Path) -> None:
    rows, place, question, answers, metric = SETS[name]
    picture = tmp_path / place
    picture.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(picture)
    file = tmp_path / "questions.json"
    file.write_text("\n".join(map(json.dumps, rows)) if name == "POPE" else json.dumps(rows))
    found = Public(file).items()
    assert len(found) == (2 if name == "POPE" else 1)
    assert len(Public(file, questions=1).items()) == 1
    first = found[0]
    assert (first.task, first.text, first.answers, first.metric) == (name, question, answers, metric)
    assert (first.image, first.picture) == (picture, place)
    checked(found)


GOOD = {"image": "a.jpg", "text": "Is it?", "label": "yes"}
BAD: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "q.json is no JSON: .* at line 1"),
    "a bad line": (json.dumps(GOOD) + "\n{", "q.json:2 is no JSON"),
    "a text": ('"x"', "a set of questions is a list or an object"),
    "another set": ('[{"a": 1}]', "q.json:1 has the fields .* of no known set .*POPE"),
    "a secret answer": ('[{"image": "a.jpg", "question": "x"}]', "q.json:1 has no 'answers': a test split of DocVQA"),
    "no picture": (json.dumps([{**GOOD, "image": "b.jpg"}]), "q.json:1 names the image 'b.jpg', which is not in"),
    "a way out": (json.dumps([{**GOOD, "image": "../a.jpg"}]), r"q.json:1 names '../a.jpg': write a path inside"),
    "no question": (json.dumps([{**GOOD, "text": " "}]), 'q.json:1 has the "question"'),
    "no rows": ('{"x": 3}', "q.json:x is no question: 3"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_cannot_be_asked_is_named_with_its_row(what: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    text, message = BAD[what]
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Public(tmp_path / "q.json").items()
