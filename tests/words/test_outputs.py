"""What is written: whole or not at all, proven writable before the work, and printed even if it cannot be written."""

from __future__ import annotations

import ast
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import greedyprune as gp
from breadth import some
from commands import ASK, fill, greedy
from greedyprune.bench import rows as results
from greedyprune.bench import select
from greedyprune.outputs import guarded, prove_folder, prove_writable, read_csv, replacing, write_csv, write_text

ROOT = Path(gp.__file__).parent
REPOSITORY = ROOT.parent.parent
SOURCES = sorted([*ROOT.rglob("*.py"), *(REPOSITORY / "docs").glob("*.py"), *(REPOSITORY / "examples").glob("*.py")])


def full(*_: object, **__: object) -> None:
    """What a full disk says."""
    raise OSError(errno.ENOSPC, "No space left on device")


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [OSError("full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "x.csv"

    def fail() -> None:
        with replacing(path) as fresh:
            assert fresh.suffix == ".csv"
            fresh.write_text("half")
            assert not path.exists() or path.read_text() == "before"
            raise fault

    for before in (None, "before"):
        if before:
            write_text(path, before)
        with pytest.raises(type(fault)):
            fail()
        assert [file.read_text() for file in tmp_path.iterdir()] == ([before] if before else [])
    write_text(path, "τ\r\nλ\n")
    assert path.read_bytes() == "τ\r\nλ\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_proving_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    old = tmp_path / "old.csv"
    old.write_text("kept")
    os.utime(old, (1, 1))
    for path in (old, tmp_path / "new.csv"):
        prove_writable(path)
    for folder in (tmp_path, tmp_path / "a" / "b"):
        prove_folder(folder)
    assert list(tmp_path.iterdir()) == [old]
    assert (old.read_text(), old.stat().st_mtime) == ("kept", 1)
    for path in (tmp_path, tmp_path / "absent" / "x.csv", old / "x.csv", tmp_path / ("x" * 300)):
        with pytest.raises(OSError, match=r"."):
            prove_writable(path)
    for folder in (old, old / "a"):
        with pytest.raises(OSError, match=r"."):
            prove_folder(folder)


@pytest.mark.skipif(os.name == "nt", reason="links and permissions of POSIX")
def test_links_are_followed_and_permissions_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("before")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "after")
    assert link.is_symlink()
    assert (real.read_text(), real.stat().st_mode & 0o777) == ("after", 0o640)
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "new.txt", "")
    finally:
        os.umask(mask)
    assert (tmp_path / "new.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.name == "nt", reason="pipes with a name")
def test_a_pipe_is_written_in_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        prove_writable(pipe)
        write_text(pipe, "τ")
        assert os.read(reader, 9) == "τ".encode()
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


# CSV ------------------------------------------------------------------------------------------------------------------


def test_no_cell_is_run_by_a_spreadsheet_and_numbers_stay_numbers(tmp_path: Path) -> None:
    evil = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"]
    assert [guarded(text) for text in evil] == [f"'{text}" for text in evil]
    for cell in (-0.5, "-0.5", "+1e-3", "-.5", "", None, "1/9", "layer:2", "{}", "'tis", "a=b", 3, True):
        assert guarded(cell) == cell
    path = tmp_path / "rows.csv"
    write_csv(path, [{"task": "=1", "accuracy": -0.5, "seed": None}], ["task", "accuracy", "seed"])
    assert path.read_bytes() == b"task,accuracy,seed\n'=1,-0.5,\n"
    results.write(path, [{"task": "=é τ", "gap": -0.25}])
    assert path.read_text(encoding="utf-8").splitlines()[1].startswith("'=é τ,-0.25,")


@given(st.lists(st.text(st.sampled_from("'=+-@\t\r\n0.5e,\"aτ"), max_size=6), min_size=1, max_size=4))
def test_reading_gives_the_texts_that_were_written(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "texts.csv"
    write_csv(path, [{"a": text, "b": "x"} for text in texts], ["a", "b"])
    assert [row["a"] for row in read_csv(path)] == texts


# The source -----------------------------------------------------------------------------------------------------------


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call of a file with the name of what is called, and whose it is if that is no text file: `Image.open`."""
    found: list[tuple[str, ast.Call]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            whose = getattr(getattr(node.func, "value", None), "id", "")
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            found.append((f"{whose}.{name}" if whose in ("Image", "item", "library", "os") else name, node))
    return found


def mode(name: str, call: ast.Call) -> str:
    """How a file is opened."""
    place = 1 if isinstance(call.func, ast.Name) else 0
    if name in ("read_text", "write_text"):
        return "r" if name == "read_text" else "w"
    given = [word.value for word in call.keywords if word.arg == "mode"] + call.args[place : place + 1]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else "r"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_text_files_name_their_encoding_and_are_written_in_one_way(path: Path) -> None:
    for name, call in calls(path):
        words = {word.arg for word in call.keywords}
        if name in ("open", "read_text", "write_text") and not (name == "write_text" and path.name == "outputs.py"):
            ours = isinstance(call.func, ast.Name) and name == "write_text"  # that of `outputs`
            assert ours or "b" in mode(name, call) or "encoding" in words, f"{path}:{call.lineno}: no encoding="
            assert ours or not set("wx") & set(mode(name, call)) or path.parent.name == "docs" or (
                path.name == "outputs.py"
            ), f"{path}:{call.lineno}: written past greedyprune.outputs"  # fmt: skip
        assert not {"text", "universal_newlines"} & words or name not in ("run", "Popen", "check_output"), (
            f"{path}:{call.lineno}: text of a process in the locale's encoding"
        )


# Commands -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("given")) / "scene.png"


def failed(result: Any, words: str) -> str:
    """What was printed by a command that could not write afterwards, and said so in one line, behind its progress."""
    assert result.exit_code == 1, result.output
    *progress, error = result.stderr.splitlines()
    assert not any("error" in line for line in progress)
    assert error.startswith("greedyprune: error: ")
    assert words in error
    return result.stdout


@pytest.mark.parametrize("option", ["--out", "--report", "--auc", "--run"])
def test_eval_finds_an_unwritable_place_before_the_work(
    scene: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("greedyprune.cli._evaluate.evaluate_models", lambda *_: pytest.fail("the work began"))
    before = sorted(scene.parent.iterdir())
    places = [scene / "x"] if option == "--run" else [scene / "x", scene.parent, scene.parent / "absent" / "x"]
    if Path("/proc/self").exists():
        places.append(Path("/proc/x"))  # a folder in which nobody can make files
    for place in places:
        assert failed(greedy("eval", option, place), f"{option} '{place}' cannot be written: ") == ""
    assert sorted(scene.parent.iterdir()) == before


def test_two_options_do_not_name_one_file(tmp_path: Path) -> None:
    result = greedy("eval", "--out", tmp_path / "x", "--report", tmp_path / "." / "x")
    assert result.exit_code == 2
    assert "--out and --report name one file" in result.stderr


@pytest.mark.parametrize("json_too", some([False, True], False))
def test_eval_prints_what_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_too: bool) -> None:
    for extra in ("sklearn", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    monkeypatch.setattr(results, "write", full)
    monkeypatch.setattr("greedyprune.cli._report.write", lambda path, *_: write_text(path, "a page"))  # with no charts
    out, report = tmp_path / "rows.csv", tmp_path / "report.html"
    command = ("eval", "--model", "llava", "--questions", "1", "--keep", "16", "--methods", "grid", "--workers", "1")
    result = greedy(*command, "--out", out, "--report", report, *(["--json"] if json_too else []))
    shown = failed(result, f"--out '{out}' cannot be written: No space left on device.")
    assert any(row["method"] == "grid" for row in json.loads(shown)) if json_too else "grid" in shown
    assert list(tmp_path.iterdir()) == [report]  # one file that fails is no reason to lose another


def test_bench_prints_what_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Path) -> None:
    monkeypatch.setattr(select, "SIZES", ((144, 16, 64),))
    monkeypatch.setattr(select, "ALONE", ())
    monkeypatch.setattr(results, "write", full)
    for more in ([], ["--json"]):
        result = greedy("bench", "select", "--runs", "1", "--save", tmp_path / "x.csv", *more)
        assert "loose" in failed(result, "No space left on device")
    monkeypatch.setattr(select, "measure", lambda *_: pytest.fail("the work began"))
    assert failed(greedy("bench", "select", "--save", scene / "x.csv"), f"--save '{scene}' cannot be made") == ""


def test_run_prints_what_it_cannot_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Path) -> None:
    monkeypatch.setattr(Image.Image, "save", full)
    result = greedy("run", scene, "--ask", ASK, "--keep", "16", "--save", tmp_path / "x.png")
    assert "yes" in failed(result, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_demo_prints_what_it_cannot_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("sklearn", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    from greedyprune.cli import demo

    every = demo._items
    monkeypatch.setattr(demo, "_items", lambda seed: every(seed)[:1])
    monkeypatch.setattr(Image.Image, "save", full)
    assert "right answers" in failed(greedy("demo", "--save", tmp_path), "No space left on device")
    found = json.loads(failed(greedy("demo", "--save", tmp_path, "--json"), "No space left on device"))
    assert (found["contact_sheet"], found["pairs"][0]["overlay"]) == (None, None)
    assert list(tmp_path.iterdir()) == []
