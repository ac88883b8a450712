"""`greedyprune run`: the answer comes first at any width, and every picture of a folder gets a prompt of its own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from commands import ASK, complaint, greedy
from films import film
from greedyprune import testbed
from greedyprune.cli import _answer, _load
from greedyprune.cli._answer import Answer, Sampling
from greedyprune.keep import Keep
from greedyprune.naming import parse_keep
from greedyprune.stages import parse_stage

LONG = (
    "The cross is red. It stands "
    + "a little to the left of the blue ring, " * 6
    + "and so on.\nNothing [else] is there."
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, a damaged one, and a text that is no picture."""
    made = tmp_path / "photos"
    made.mkdir()
    for name, color in (("b.png", "red"), ("c.jpg", "blue")):
        Image.new("RGB", (168, 168), color).save(made / name)
    (made / "a.png").write_bytes((made / "b.png").read_bytes()[:60])
    (made / "notes.txt").write_text("no picture")
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """A model that always says the same, and what it was asked: the number of images and the question."""
    found: list[tuple[int, str]] = []

    def prompt(loaded: Any, images: Any, question: str) -> list[Any]:
        found.append((len(images), question))
        return images

    def answer(loaded: Any, inputs: list[Any], how: Any, longest: int) -> Answer:
        seen = 100 * len(inputs)
        kept = seen if how is None else seen // 4 + len(found)
        return Answer(LONG, seen, kept, kept + 9, 5.0, 1000 * kept, at="layer:2" if how else None)

    monkeypatch.setattr(_load, "load", lambda *_: _load.Loaded(None, None, "mine", bundled=False))
    monkeypatch.setattr(_answer, "prompt", prompt)
    monkeypatch.setattr(_answer, "answer", answer)
    return found


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("columns", ["40", "60", "200"])
def test_the_answer_comes_first_and_whole_at_any_width(
    folder: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if it were a terminal
    told = greedy("run", folder / "b.png", "--ask", ASK).stdout
    assert told.startswith(LONG + "\n")
    assert "…" not in told
    both = greedy("run", folder / "b.png", "--ask", ASK, "--compare").stdout
    assert both.startswith(f"dense: {LONG}\nsoft_greedyprune at layer:2: {LONG}\n")
    assert "100 of 100" in both
    assert "…" not in both


def test_pictures_named_one_by_one_share_a_prompt(folder: Path, asked: list[tuple[int, str]]) -> None:
    assert greedy("run", folder / "b.png", folder / "c.jpg", "--ask", ASK).exit_code == 0
    assert asked == [(2, ASK)]


def test_pictures_of_a_folder_get_a_prompt_each(folder: Path, asked: list[tuple[int, str]]) -> None:
    (folder / "a.png").unlink()
    result = greedy("run", folder, "--ask", ASK)
    assert result.exit_code == 0, result.output
    assert asked == [(1, ASK), (1, ASK)]
    assert result.stdout.startswith(f"{folder / 'b.png'}: {LONG}\n{folder / 'c.jpg'}: {LONG}\n")
    assert "mean of 2 prompts" in result.stdout
    assert "26.5 of 100" in result.stdout
    assert "such as 'notes.txt'" in result.stderr
    assert greedy("run", folder, "--ask", ASK, "--together").exit_code == 0
    assert asked[2:] == [(2, ASK)]


def test_a_damaged_picture_of_a_folder_costs_its_own_answer_alone(folder: Path, asked: list[tuple[int, str]]) -> None:
    result = greedy("run", folder, "--ask", ASK, "--json")
    assert result.exit_code == 1
    assert [Path(each["images"][0]).name for each in json.loads(result.stdout)["prompts"]] == ["b.png", "c.jpg"]
    assert "error: 1 of 3 prompts failed: image" in result.stderr
    assert len(asked) == 2
    (folder / "c.jpg").unlink()
    (folder / "a.png").unlink()
    assert len(json.loads(greedy("run", folder, "--ask", ASK, "--json").stdout)["prompts"]) == 1


def test_a_question_of_several_lines_stands_in_a_file(folder: Path, asked: list[tuple[int, str]]) -> None:
    (folder / "notes.txt").write_text("What is this?\nSay it in one word.\n", encoding="utf-8")
    assert greedy("run", folder / "b.png", "--prompt-file", folder / "notes.txt").exit_code == 0
    assert asked == [(1, "What is this?\nSay it in one word.")]


@pytest.mark.parametrize(
    ("keep", "at"),
    [
        ("1/4", "layers:2,4"),
        ("36 per layer", "depths:0.5"),
        ("total:64:8", "input"),
        ("layer:2 50%, layer:4 25%", None),
    ],
)
def test_every_budget_and_stage_that_has_a_text_reaches_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, keep: str, at: str | None
) -> None:
    given: list[Any] = []

    def answer(loaded: Any, inputs: Any, how: Any, longest: int) -> Answer:
        given.append(how)
        return Answer("yes", 100, 25, 34, 5.0, 1000, at="there")

    monkeypatch.setattr(_load, "load", lambda *_: _load.Loaded(None, None, "mine", bundled=False))
    monkeypatch.setattr(_answer, "prompt", lambda *_: None)
    monkeypatch.setattr(_answer, "answer", answer)
    options = ("--keep", keep, *(("--at", at) if at else ()))
    assert greedy("run", folder / "b.png", "--ask", ASK, *options).exit_code == 0
    assert (given[0].keep, given[0].at) == (parse_keep(keep), parse_stage(at) if at else None)


def test_the_pictures_of_a_folder_are_drawn_into_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "a.png").unlink()
    result = greedy("run", folder, "--ask", ASK, "--save", tmp_path / "kept", "--max-new-tokens", "1")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["001-b.png", "002-c.png"]
    assert result.stdout.count("overlay: ") == 2


def test_a_clip_is_read_as_even_frames_and_drawn_frame_by_frame(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    first, *rest = [Image.new("RGB", (64, 64), (20 * shade, 0, 0)) for shade in range(8)]
    first.save(tmp_path / "film.gif", save_all=True, append_images=rest)
    keep = Keep.from_order(torch.tensor([0, 3, 5, 6]), torch.zeros(4), 8)
    selection = SimpleNamespace(order=keep.order, gains=keep.gains, n=8, k=4, grid=(2, 2, 2))

    def prompt(loaded: Any, images: Any, question: str) -> None:
        given.extend(images)

    def answer(loaded: Any, inputs: Any, how: Any, longest: int, sampling: Any = None) -> Answer:
        given.append(sampling)
        return Answer("red", 8, 4, 9, 5.0, 1000, at="input", selections=[selection])  # type: ignore[list-item]

    monkeypatch.setattr(_load, "load", lambda *_: _load.Loaded(None, None, "mine", bundled=False))
    monkeypatch.setattr(_answer, "prompt", prompt)
    monkeypatch.setattr(_answer, "answer", answer)
    asked = ("run", tmp_path / "film.gif", "--ask", ASK, "--frames", "4")
    assert "a 'llava' model reads no videos" in complaint(greedy(*asked), 1)
    assert given == []
    options = (
        "--model",
        "qwen",
        "--save",
        tmp_path / "kept.png",
        "--size",
        "100",
        "--temperature",
        "0.7",
        "--seed",
        "3",
    )
    result = greedy(*asked, *options)
    assert result.exit_code == 0, result.output
    assert (given[0].indices, given[0].total) == ([1, 3, 5, 7], 8)
    assert given[1] == Sampling(0.7, 1.0, 0, 3)
    with Image.open(tmp_path / "kept.png") as drawn:
        assert drawn.width > 200  # two frames beside each other
    assert "write --temperature" in complaint(greedy(*asked, "--top-p", "0.5"), 2)


def test_a_film_is_asked_about_end_to_end(folder: Path, tmp_path: Path) -> None:
    item = testbed.sample(1, seed=3)[0]
    shot = film(tmp_path / "clip.mp4", [item.image] * 12)
    options = ("--model", "qwen", "--frames", "4", "--keep", "12/frame", "--compare", "--save", tmp_path / "kept.png")
    result = greedy("run", shot, "--ask", item.question.text, *options, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    dense, pruned = found["dense"], found["pruned"]
    assert (dense["visual_tokens"], pruned["kept"]) == (2 * 144, 2 * 12)  # two frames make one step
    assert dense["answer"] == pruned["answer"] == item.question.answer
    assert pruned["prompt_flops"] < dense["prompt_flops"]
    with Image.open(tmp_path / "kept.png") as drawn:
        assert drawn.width > drawn.height


@pytest.mark.usefixtures("asked")
def test_an_answer_without_any_visual_token_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_answer, "answer", lambda *_: Answer("yes", 100, 0, 9, 5.0, 1000, at="input"))
    assert "without having seen the picture" in greedy("run", folder / "b.png", "--ask", ASK, "--keep", "0").stderr
