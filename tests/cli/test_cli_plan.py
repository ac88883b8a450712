"""Planning, presets and tuning from the command line: counts before a run, and one file for what was chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

import greedyprune as gp
from commands import ASK, complaint, greedy
from greedyprune.cli import _answer, _load, _plan
from greedyprune.cli._answer import Answer
from greedyprune.cli._show import flops


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    drawn = Image.new("RGB", (168, 168), (110, 110, 100))
    ImageDraw.Draw(drawn).ellipse((40, 40, 90, 90), fill=(220, 20, 30))
    drawn.save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "fast.json"
    gp.Preset(gp.Policy("divprune", gp.Ratio(1 / 9), gp.Layer(2), "compact"), "qwen").save(path)
    return path


def test_a_plan_says_what_a_run_then_does(scene: Path) -> None:
    asked = ("--ask", ASK, "--keep", "16", "--at", "layer:2", "--json")
    planned = greedy("plan", "llava", scene, *asked, "--dtype", "float32")
    assert planned.exit_code == 0, planned.output
    found, ran = json.loads(planned.stdout), json.loads(greedy("run", scene, *asked).stdout)["pruned"]
    assert (found["tokens"], found["kept"]) == (144, 16)
    assert (found["sequence_kept"], found["cache_bytes"]) == (ran["sequence"], ran["cache_bytes"])
    told = greedy("plan", "llava", scene, "--ask", ASK, "--batch", "2")
    assert "36" in told.stdout
    assert "nothing has run" in told.stdout
    assert told.stderr == ""


def test_what_cannot_be_planned_is_refused_as_it_would_be_when_run(scene: Path) -> None:
    for options, status, text in (
        (("--at", "layer:9"), 1, "Layer(9) does not exist: this model has 5 decoder layers"),
        (("--method", "fastv", "--at", "input"), 2, "FastV"),
        (("--dtype", "int4"), 2, "--dtype 'int4' is unknown"),
    ):
        assert text in complaint(greedy("plan", "llava", scene, *options), status)
    assert "there is no such file" in complaint(greedy("plan", "llava", "absent.png"), 1)


def test_flops_are_short() -> None:
    assert [flops(number) for number in (0, 999, 1234, 5.5e13, 1e16)] == [
        "0 FLOPs", "999 FLOPs", "1.23 kFLOPs", "55 TFLOPs", "10 PFLOPs",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "policy", "model"),
    [
        ((), ("divprune", gp.Ratio(1 / 9), "layer:2", "compact"), "qwen"),
        (("--keep", "64"), ("divprune", 64, "layer:2", "compact"), "qwen"),
        (("--at", "input", "--model", "llava"), ("divprune", gp.Ratio(1 / 9), "input", "compact"), "llava"),
        (("--method", "fastv"), ("fastv", gp.Ratio(1 / 9), None, "compact"), "qwen"),
        (("--keep", "layer:2 50%"), ("divprune", gp.PerLayer({2: gp.Ratio(0.5)}), None, "compact"), "qwen"),
        (("--positions", "original"), ("divprune", gp.Ratio(1 / 9), "layer:2", "original"), "qwen"),
    ],
)
def test_a_preset_gives_what_is_not_written(
    options: tuple[str, ...], policy: Any, model: str, scene: Path, preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def load(name: Any, *_: Any) -> Any:
        given.append(name)
        return _load.Loaded(None, None, "mine", bundled=False)

    def answer(loaded: Any, inputs: Any, how: Any, longest: int) -> Answer:
        given.append((gp.to_plain(how.method)["type"], how.keep, how.at and str(how.at), how.positions))
        return Answer("yes", 100, 25, 34, 5.0, 1000, at="there")

    monkeypatch.setattr(_load, "load", load)
    monkeypatch.setattr(_answer, "prompt", lambda *_: None)
    monkeypatch.setattr(_answer, "answer", answer)
    result = greedy("run", scene, "--ask", ASK, "--preset", preset, *options)
    assert result.exit_code == 0, result.output
    assert given == [model, policy]


def test_an_evaluation_takes_a_preset(preset: Path) -> None:
    found = _plan.compared(None, None, None, "0", preset=gp.Preset(gp.Policy("mmr", gp.Ratio(1 / 9), "layer:2")))
    assert (found.methods, found.stages) == ([gp.MMR()], [gp.Layer(2)])
    assert list(found.budgets.values()) == [gp.Ratio(1 / 9)]
    assert "positions are compact" in complaint(greedy("eval", "--preset", preset), 2)


def test_a_bad_preset_is_named(tmp_path: Path, scene: Path) -> None:
    (tmp_path / "bad.json").write_text('{"method": "divprun", "keep": 64}')
    for command in (("run", scene, "--ask", ASK), ("eval",), ("bench", "prefill"), ("plan", "llava", scene)):
        said = complaint(greedy(*command, "--preset", tmp_path / "bad.json"), 2)
        assert "--preset: the preset" in said
        assert "did you mean 'divprune'" in said


def test_tuning_writes_a_preset_that_runs(scene: Path, tmp_path: Path) -> None:
    line = {"image": "scene.png", "question": ASK, "answer": "yes"}
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps({**line, "task": name}) for name in ("a", "b")))
    few = ("tune", "--data", tmp_path, "--keep", "1/2,1/4", "--batch", "4")
    assert "1 pictures cannot show a loss below 97.5 points" in complaint(greedy(*few), 2)
    result = greedy(*few, "--loss", "98", "--save", tmp_path / "fast.json")
    assert result.exit_code == 0, result.output
    assert "smallest budget within 98 points: 1/4" in result.stdout
    found = gp.load_preset(tmp_path / "fast.json")
    assert (found.policy.keep, found.model) == (gp.Ratio(0.25), "llava")
    assert "100.0 % right" in found.note


def test_own_questions_are_asked_in_a_template_and_every_answer_is_written(scene: Path, tmp_path: Path) -> None:
    rows = [{"image": "scene.png", "text": ASK, "label": "yes"}]
    (tmp_path / "pope.json").write_text(json.dumps(rows))
    few = ("eval", "--data", tmp_path / "pope.json", "--model", "llava", "--keep", "1/4", "--methods", "saliency")
    result = greedy(*few, "--metric", "contains", "--suffix", "yes", "--answers", tmp_path / "told.jsonl")
    assert result.exit_code == 0, result.output
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert [each["method"] for each in told] == ["dense", "saliency"]
    assert told[0]["question"] == f"{ASK}\nyes"
    assert (told[0]["metric"], told[0]["answers"], told[1]["kept"]) == ("contains", ["yes"], 36)
    assert "Few questions: 1 about 1 pictures" in result.stdout
    for options, text in (
        (("--suffix", "x", "--template", "{question}"), "exclude each other"),
        (("--template", "x"), "has no {question}"),
        (("--metric", "rouge"), "--metric: there is no metric 'rouge'"),
    ):
        assert text in complaint(greedy(*few, *options), 2)
    assert "are about your own questions" in complaint(greedy("eval", "--suffix", "x"), 2)
