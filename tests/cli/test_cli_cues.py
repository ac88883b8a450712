"""`greedyprune cues`: rows with where they come from, one table per model, errors in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import complaint, greedy
from greedyprune import testbed
from greedyprune.cli import cues as command
from greedyprune.eval.reader import SALIENCIES
from greedyprune.eval.scenes import Scenes
from greedyprune.outputs import read_csv

for extra in ("sklearn", "skimage", "matplotlib"):
    pytest.importorskip(extra)

FEW = ("cues", "--model", "llava", "--questions", "1")


def folder_of(made: Path, boxes: bool) -> Path:
    """Scenes as a user's own folder."""
    made.mkdir()
    lines: list[dict[str, Any]] = []
    for item in Scenes(1, seed=1, tasks=("color", "ocr")).items():
        item.image.save(made / f"{item.picture}.png")
        line = {"image": f"{item.picture}.png", "question": item.text, "answer": list(item.answers), "task": item.task}
        lines.append({**line, "boxes": item.boxes} if boxes else line)
    (made / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return made


def test_rows_of_all_models_stand_in_one_file(tmp_path: Path) -> None:
    def boxes(seed: int) -> list[bool]:
        return [bool(item.boxes) for item in Scenes(2, "dev", seed, ("exist",)).items()]

    seed = next(seed for seed in range(50) if boxes(seed) == [False, True])  # the first answer is "no", the next "yes"
    out = tmp_path / "rows.csv"
    files = ("--out", out, "--states", tmp_path / "states.csv")
    result = greedy(*FEW, "--model", "qwen", "--split", "dev", "--seed", seed, *files)
    assert result.exit_code == 0, result.output
    states = read_csv(tmp_path / "states.csv")
    places = ["input", *(f"layer:{layer}" for layer in range(1, 5))]
    assert [(row["model"], row["layer"]) for row in states] == [(m, at) for m in ("llava", "qwen") for at in places]
    assert all(float(row["norm"]) > 0 and row["command"] and row["dtype"] for row in states)
    rows = read_csv(out)
    assert {row["model"] for row in rows} == {"llava", "qwen"}
    assert {row["task"] for row in rows if row["model"] == "llava"} == set(testbed.TASKS)
    assert {row["saliency"] for row in rows} == set(SALIENCIES)
    assert {row["layer"] for row in rows} == {"input", *(f"layer:{layer}" for layer in range(1, 5))}
    assert {row["n"] for row in rows} == {"1"}
    assert {row["split"] for row in rows} == {"dev"}
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("auc", "auc_low", "auc_high", "recall_9"))
    assert all(row[name] for row in rows for name in ("transformers", "torch", "command", "date", "device", "dtype"))
    for name in ("llava: ", "qwen: ", "cosine max centred", "layer:4", "0.5: blind"):
        assert name in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_quick_asks_little_and_json_is_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = command._measure

    def measure(name: str, questions: Any, *more: Any) -> Any:
        asked.append(questions.each)
        return real(name, questions.__class__(**{**vars(questions), "each": 1}), *more)

    monkeypatch.setattr(command, "_measure", measure)
    result = greedy("cues", "--quick", "--model", "llava", "--json", "--suite", "digits")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert asked == [command.QUICK]
    few = ("cues", "--quick", "--model", "llava", "--suite", "digits", "--questions", "3")
    assert greedy(*few).exit_code == 0
    assert asked[1:] == [3]
    assert {(row["suite"], row["against"], row["n"]) for row in rows} == {("digits", "all", 1)}  # no other digit there


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    result = greedy(*FEW, "--data", folder_of(tmp_path / "mine", boxes=True))
    assert result.exit_code == 0, result.output
    assert "llava: 2 questions of 2 tasks" in result.stdout
    assert "against all other visual tokens" in " ".join(result.stdout.split())


def test_what_is_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    bare = folder_of(tmp_path / "bare", boxes=False)
    for arguments, status, words in (
        (("--data", "nowhere"), 1, "--data 'nowhere' is not there"),
        (("--data", bare), 1, "llava: no question has boxes that say where its answer is"),
        (("--suite", "vqa"), 2, "--suite 'vqa' is unknown"),
        (("--split", "train"), 2, "--split 'train' is unknown"),
        (("--out", "nowhere/rows.csv"), 1, "--out 'nowhere/rows.csv' cannot be written"),
        (("--states", "nowhere/rows.csv"), 1, "--states 'nowhere/rows.csv' cannot be written"),
        (("--methods", "none"), 2, "No such option"),
    ):
        assert words in complaint(greedy(*FEW, *arguments), status)


def test_a_model_that_fails_costs_no_rows_of_the_others(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    result = greedy("cues", "--questions", "1", "--model", tmp_path / "a", "--model", "llava", "--out", out)
    assert result.exit_code == 1
    assert "The results of llava are complete." in result.stderr
    assert {row["model"] for row in read_csv(out)} == {"llava"}
    assert str(tmp_path / "a") in complaint(greedy("cues", "--model", tmp_path / "a"), 1)
