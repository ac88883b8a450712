"""`greedyprune eval`: rows with where they come from, a report that opens offline, errors that help."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import weakref
from pathlib import Path
from typing import Any

import pytest

from commands import complaint, greedy
from greedyprune import testbed
from greedyprune.budget import LayerAverage, Ratio
from greedyprune.cli import _evaluate, _plan
from greedyprune.cli._errors import Failure
from greedyprune.cli._load import Loaded
from greedyprune.cli._plan import budget_of
from greedyprune.eval import auc as auc_of_orders
from greedyprune.eval.configs import USUAL
from greedyprune.eval.scenes import Scenes
from greedyprune.registry import METHODS
from greedyprune.stages import Depths, Input, Layer, Layers

for extra in ("sklearn", "skimage", "matplotlib"):
    pytest.importorskip(extra)

FEW = ("eval", "--model", "llava", "--questions", "2", "--keep", "1/9", "--seeds", "0", "--workers", "1")


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Scenes as a user's own folder."""
    made = tmp_path / "mine"
    made.mkdir()
    lines: list[dict[str, Any]] = []
    for item in Scenes(2, seed=1, tasks=("color", "ocr")).items():
        item.image.save(made / f"{item.picture}.png")
        line = {"image": f"{item.picture}.png", "question": item.text, "answer": list(item.answers), "task": item.task}
        lines.append({**line, "boxes": item.boxes})
    (made / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return made


@pytest.mark.wide  # every method, on every task
def test_all_methods_may_be_asked_for(tmp_path: Path) -> None:
    result = greedy(
        *FEW, "--methods", "all", "--questions", "1", "--out", tmp_path / "rows.csv", "--run", tmp_path / "run"
    )
    assert result.exit_code == 0, result.output
    assert {row["method"] for row in read(tmp_path / "rows.csv")} == {"dense", *METHODS, "oracle"}


def test_rows_and_report_of_the_usual_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auc_of_orders, "STAGES", (Layer(2),))
    out, auc, report = tmp_path / "rows.csv", tmp_path / "auc.csv", tmp_path / "report.html"
    few = (*FEW, "--questions", "1")
    result = greedy(*few, "--out", out, "--auc", auc, "--report", report, "--run", tmp_path / "run")
    assert result.exit_code == 0, result.output
    rows = read(out)
    assert {row["method"] for row in rows} == {"dense", *USUAL, "oracle"}
    assert {row["task"] for row in rows} == {*testbed.TASKS, "mean"}
    for name in ("commit", "torch", "transformers", "greedyprune", "command", "device", "threads", "split", "model"):
        assert all(name in row for row in rows)
    assert rows[0]["model"] == "llava"
    assert {row["kept"] for row in rows if row["method"] == "greedyprune"} == {"16.0"}
    assert all(0 <= float(row["auc"]) <= 1 for row in read(auc))
    assert all(name in result.stdout for name in ("greedyprune", "oracle", "layer:2", "answers per second"))
    assert max(map(len, result.stdout.splitlines())) <= 100
    page = report.read_text()
    html.parser.HTMLParser().feed(page)
    assert (
        len(re.findall(r'<img alt="[^"]+" src="data:image/(?:png|svg\+xml);base64,', page)) == page.count("<img") == 5
    )
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="?http', page)
    again = greedy(*few, "--out", tmp_path / "again.csv", "--run", tmp_path / "run")
    assert "all answers were in the run folder" in again.stdout
    strip = [[{k: v for k, v in row.items() if k != "command"} for row in some] for some in
             (rows, read(tmp_path / "again.csv"))]  # fmt: skip
    assert strip[0] == strip[1]


def test_methods_with_options_and_stages_as_json(tmp_path: Path) -> None:
    wanted = json.dumps([{"type": "greedyprune", "tau": 0.9}, "saliency", "oracle"])
    result = greedy(*FEW, "--methods", wanted, "--at", "input,layer:1", "--split", "dev", "--json")
    assert result.exit_code == 0, result.output
    rows = [row for row in json.loads(result.stdout) if row["task"] == "mean"]
    assert [(row["method"], row["options"], row["stage"]) for row in rows] == [
        ("dense", "", ""),
        *((name, '{"tau": 0.9}' if name == "greedyprune" else "", at)
          for name in ("greedyprune", "saliency", "oracle") for at in ("input", "layer:1")),
    ]  # fmt: skip
    assert {row["split"] for row in rows} == {"dev"}
    assert rows[0]["hard_n"] is rows[1]["hard_n"] is None  # no control was asked for


def test_a_folder_of_ones_own(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    result = greedy(*FEW[:3], "--data", folder, "--keep", "25%,16", "--methods", "saliency,pool", "--out", out)
    assert result.exit_code == 0, result.output
    rows = read(out)
    assert {(row["suite"], row["task"]) for row in rows} == {("data", task) for task in ("color", "ocr", "mean")}
    assert {row["budget"] for row in rows} == {"all", "25%", "16"}
    assert all(row["guess_floor"] == "" for row in rows)
    assert rows[0]["accuracy"] == "1.0"


def test_handwriting_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Any] = []
    monkeypatch.setattr(_evaluate, "evaluate_models", lambda plan, *_: plans.append(plan))
    assert greedy("eval", "--suite", "digits", "--quick", "--model", "llava").exit_code == 0
    asked, compared = plans[0].questions, plans[0].compared
    assert (asked.suite, asked.each) == ("digits", 10)
    assert (list(compared.budgets), compared.seeds) == (["1/4", "1/9"], [0])
    own = ("--questions", "7", "--keep", "64", "--seeds", "3")
    assert greedy("eval", "--quick", *own).exit_code == 0
    asked, compared = plans[1].questions, plans[1].compared
    assert (asked.each, list(compared.budgets), compared.seeds) == (7, ["64"], [3])
    assert "'1/0' is no budget" in complaint(greedy("eval", "--quick", "--keep", "1/0"), 2)
    assert _evaluate._workers("llava", "cpu") >= 1
    assert _evaluate._workers("llava", "cuda") == _evaluate._workers("./elsewhere", "cpu") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--keep", "2/1"), 2, "--keep '2/1' is no budget: write 64"),
        (("--keep", "0.5"), 2, "--keep '0.5' is no budget"),
        (("--seeds", "0,x"), 2, "--seeds 'x' is no number"),
        (("--at", "tower"), 2, "--at 'tower' names no stage"),
        (("--methods", "gredyprune"), 2, "--methods: there is no method 'gredyprune': did you mean 'greedyprune'?"),
        (("--methods", "[1"), 2, "--methods is no JSON"),
        (("--methods", "@nowhere.json"), 2, "--methods 'nowhere.json' cannot be read: No such file or directory."),
        (("--suite", "vqa"), 2, "--suite 'vqa' is unknown: choose one of testbed, digits"),
        (("--split", "train"), 2, "--split 'train' is unknown: choose one of dev, test"),
        (("--data", "nowhere"), 1, "--data 'nowhere' is not there"),
        (("--out", "nowhere/rows.csv"), 1, "--out 'nowhere/rows.csv' cannot be written"),
        (("--methods", "saliency", "--at", "layer:9"), 1, "Layer(9) does not exist: this model has 5 decoder layers"),
        (("--at", "layer:2,layer:9"), 1, "Layer(9) does not exist: this model has 5 decoder layers"),
        (("--methods", "pool,fastv", "--at", "input"), 1, "FastV"),
        (("--methods", "downscale"), 1, "downscale 1/9 image cannot run on this model: images of a 'llava' model"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_told_in_one_line(arguments: tuple[str, ...], status: int, words: str) -> None:
    assert words in complaint(greedy(*FEW, *arguments), status)


def test_a_folder_with_mistakes_and_another_runs_folder(folder: Path, tmp_path: Path) -> None:
    run = ("--data", folder, "--methods", "saliency", "--run", tmp_path / "run")
    assert greedy(*FEW, *run).exit_code == 0
    assert "holds a run with other settings (batch was 32 and is 3)" in complaint(greedy(*FEW, *run, "--batch", 3), 1)
    image = next(folder.glob("*.png"))
    image.write_bytes(image.read_bytes()[:100])
    result = greedy(*FEW[:3], "--data", folder, "--methods", "saliency", "--keep", "16", "--workers", "1")
    assert "preparing failed on questions.jsonl:" in complaint(result, 1)


def test_methods_stand_in_a_file(tmp_path: Path) -> None:
    text = '["random", {"type": "mmr", "trade": 0.7}, "oracle"]\n'
    (tmp_path / "rules.json").write_text(text)
    (tmp_path / "names.txt").write_text("random, grid")
    assert _plan._methods(f"@{tmp_path / 'rules.json'}") == _plan._methods(text)
    assert _plan._methods(f"@{tmp_path / 'names.txt'}") == _plan._methods("random,grid")


def test_budgets_are_shares_or_numbers() -> None:
    assert budget_of("1/9").of(144) == 16  # type: ignore[union-attr]
    assert budget_of("1/1").of(144) == 144  # type: ignore[union-attr]
    assert budget_of("25%").of(144) == 36  # type: ignore[union-attr]
    assert budget_of("64") == 64
    assert budget_of("36 per layer") == LayerAverage(36)
    assert budget_of("64 total") == budget_of("total:64:8") == budget_of("64/frame") == 64  # of the one picture
    assert budget_of("25%/frame") == Ratio(0.25)
    with pytest.raises(ValueError, match="is no single budget"):
        budget_of("layer:1 50%")


def test_a_comma_inside_a_stage_parts_no_stages() -> None:
    found = _plan.compared("grid", "1/4,36 per layer,64", "input,layers:2,4,layer:3:early,depths:0.25,.5", "0,1")
    assert found.stages == [Input(), Layers((2, 4)), Layer(3, early=True), Depths((0.25, 0.5))]
    assert list(found.budgets.values()) == [Ratio(0.25), LayerAverage(36), 64]
    with pytest.raises(Failure, match="'input,2' names no stage"):
        _plan.compared("grid", "64", "input,2", "0")


@pytest.mark.parametrize("json_too", [False, True])
def test_a_model_that_fails_costs_no_rows_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_too: bool
) -> None:
    """Not of those before it, which are on disk before it begins, nor of those behind it."""
    out, real, seen, held = tmp_path / "rows.csv", _evaluate._evaluate_model, [], []

    def one(plan: Any, name: str, *more: Any) -> Any:
        if name == "qwen":
            model = Loaded(None, None, name, bundled=True)
            held.append(weakref.ref(model))
            seen.append({row["model"] for row in read(out)})
            raise KeyError("no such layer")
        assert not any(model() for model in held), "the model that failed is still in memory"
        return real(plan, name, *more)

    monkeypatch.setattr(_evaluate, "_evaluate_model", one)
    few = ("--questions", "1", "--methods", "grid", "--keep", "1/9", "--workers", "1", "--out", out)
    models = [("--model", name) for name in ("llava", "qwen", str(testbed.FOLDERS["llava"]))]
    result = greedy("eval", *few, *(word for pair in models for word in pair), *["--json"] * json_too)
    assert result.exit_code == 1
    assert seen == [{"llava"}]
    assert result.stderr.count("\n") == 1
    assert "qwen: KeyError('no such layer'). The results of llava, " in result.stderr
    names = {"llava", str(testbed.FOLDERS["llava"])}
    assert {row["model"] for row in read(out)} == names
    if json_too:
        assert {row["model"] for row in json.loads(result.stdout)} == names
    else:
        assert result.stdout.count("dense ") == 2


def test_models_that_all_fail_are_all_named(tmp_path: Path) -> None:
    models = [word for name in ("a", "b") for word in ("--model", tmp_path / name)]
    result = greedy("eval", "--questions", "1", *models, "--out", tmp_path / "rows.csv")
    said = complaint(result, 1)
    assert str(tmp_path / "a") in said
    assert str(tmp_path / "b") in said
    assert "complete" not in said
    assert not (tmp_path / "rows.csv").exists()
