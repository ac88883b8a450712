"""The command line: it answers, its JSON is pure, and whatever is wrong is said in one line with the right status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

import greedyprune
from greedyprune import testbed
from greedyprune.cli.app import app
from greedyprune.models.table import FAMILIES, IMPOSSIBLE
from greedyprune.registry import METHODS

ASK = "is there a red circle ?"


def greedy(*args: object) -> Any:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def outside(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run it as a process of its own."""
    command = [sys.executable, "-m", "greedyprune.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def complaint(result: Any, status: int) -> str:
    """The one line in which a command failed."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    line, rest = result.stderr.split("\n", 1)
    assert rest == ""
    assert line.startswith("greedyprune: error: ")
    return line


def size(path: str | Path) -> tuple[int, int]:
    """Of a picture."""
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures good and bad, and folders that are no models."""
    made = tmp_path_factory.mktemp("given")
    scene = Image.new("RGB", (168, 168), (110, 110, 100))
    ImageDraw.Draw(scene).ellipse((40, 40, 90, 90), fill=(220, 20, 30))
    scene.save(made / "scene.png")
    scene.resize((90, 200)).save(made / "tall.jpg")
    (made / "cut.png").write_bytes((made / "scene.png").read_bytes()[:300])
    (made / "empty.png").touch()
    (made / "text.png").write_text("no picture at all")
    (made / "nothing").mkdir()
    llama = made / "llama"
    llama.mkdir()
    (llama / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 50}))
    for name, missing in (("weightless", "model.safetensors"), ("speechless", "chat_template.jinja")):
        shutil.copytree(testbed.FOLDER, made / name, ignore=shutil.ignore_patterns(missing, "__pycache__"))
    broken = made / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    return made


# Answers --------------------------------------------------------------------------------------------------------------


def test_run_answers_and_draws(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "kept.png"
    result = greedy("run", folder / "scene.png", "--ask", "Is there a red circle?", "--keep", "16", "--save", saved)
    assert result.exit_code == 0, result.output
    assert "yes" in result.stdout
    assert "16 of 144" in result.stdout
    assert result.stderr == ""
    assert size(saved) == (504, 504)


def test_compare_as_json_is_one_document_with_both_answers(folder: Path, tmp_path: Path) -> None:
    pictures, saved = (folder / "scene.png", folder / "tall.jpg"), tmp_path / "kept.png"
    options = ("--method", "saliency", "--at", "input", "--compare", "--json", "--save", saved)
    result = greedy("run", *pictures, "--ask", ASK, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    dense, pruned = found["dense"], found["pruned"]
    assert (dense["visual_tokens"], dense["kept"], pruned["kept"]) == (288, 288, 72)
    assert (found["at"], found["method"], found["overlay"]) == ("input", "saliency", str(saved))
    assert dense["sequence"] - pruned["sequence"] == 216
    assert dense["cache_bytes"] / dense["sequence"] == pruned["cache_bytes"] / pruned["sequence"]
    assert min(dense["first_token_ms"], pruned["first_token_ms"], pruned["select_ms"]) > 0
    assert [len(selection["rows"]) for selection in pruned["selections"]] == [36, 36]


def test_keeping_everything_gives_the_dense_answer(folder: Path) -> None:
    result = greedy("run", folder / "scene.png", "--ask", ASK, "--keep", "100%", "--compare", "--json")
    found = json.loads(result.stdout)
    assert found["dense"]["answer"] == found["pruned"]["answer"] == "yes"
    assert found["dense"]["cache_bytes"] == found["pruned"]["cache_bytes"]


def test_a_word_the_bundled_model_does_not_know_is_told(folder: Path) -> None:
    result = greedy("run", folder / "scene.png", "--ask", "any zebra ?", "--json")
    assert result.exit_code == 0
    assert "never seen the word 'any'" in result.stderr
    json.loads(result.stdout)


def test_square_brackets_are_printed_as_they_are(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "[bold]x.png"
    result = greedy("run", folder / "scene.png", "--ask", ASK, "--save", saved)
    assert result.exit_code == 0
    assert "[bold]x.png" in result.stdout.replace("\n", "")


def test_demo_covers_every_kind_and_writes_its_pictures(tmp_path: Path) -> None:
    for extra in ("sklearn", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    result = greedy("demo", "--save", tmp_path / "out", "--seed", "4", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [pair["kind"] for pair in found["pairs"]] == list(testbed.KINDS)
    for pair in found["pairs"]:
        assert [pair["answers"][name]["kept"] for name in ("dense", "1/4", "1/9")] == [144, 36, 16]
        assert size(pair["overlay"])[0] > 1500
    assert found["summary"]["dense"]["right"] >= 8
    assert found["summary"]["1/9"]["cache_bytes"] < found["summary"]["dense"]["cache_bytes"]
    assert size(found["contact_sheet"])[0] > 1500
    assert len(list((tmp_path / "out").iterdir())) == len(testbed.KINDS) + 1


def test_demo_prints_what_it_measured_in_100_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("sklearn", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    from greedyprune.cli import _answer, demo

    monkeypatch.setattr(_answer, "TIMED", 1)
    monkeypatch.setattr(demo, "_draw", lambda pairs, folder: [folder / "contact-sheet.png"])
    result = greedy("demo", "--save", tmp_path)
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.rstrip().splitlines()
    assert max(map(len, lines)) <= 100
    assert str(tmp_path) in last
    for words in ("what does the", "36 kept (1/4)", "16 of 144", "no measure of what pruning saves", "kB"):
        assert words in result.stdout


# Lists ----------------------------------------------------------------------------------------------------------------


def test_methods_are_those_of_the_registry() -> None:
    found = json.loads(greedy("methods", "--json").stdout)
    assert [row["name"] for row in found] == list(METHODS)
    row = found[0]
    assert (row["class"], row["at"], row["needs"], row["exact"]) == ("GreedyPrune", "layer:2", ["text"], True)
    assert "tau" in row["options"]
    shown = greedy("methods").stdout
    assert all(name in shown for name in METHODS)


def test_models_are_those_of_the_table() -> None:
    found = json.loads(greedy("models", "--json").stdout)
    assert [row["family"] for row in found["families"]] == list(FAMILIES)
    assert {row["family"]: row["reason"] for row in found["impossible"]} == IMPOSSIBLE
    shown = greedy("models").stdout
    assert all(name in shown for name in (*FAMILIES, *IMPOSSIBLE))


def test_version_and_help() -> None:
    assert greedy("--version").stdout == f"greedyprune {greedyprune.__version__}\n"
    assert "demo" in greedy().stdout
    for command in ("demo", "run", "methods", "models"):
        result = greedy(command, "--help")
        assert result.exit_code == 0
        assert "Example" in result.stdout


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["missing.png"], 1, "'missing.png': there is no such file"),
        (["cut.png"], 1, "'cut.png' cannot be read"),
        (["empty.png"], 1, "'empty.png' is empty (0 bytes)"),
        (["text.png"], 1, "'text.png' is no image"),
        (["nothing"], 1, "'nothing' is a folder"),
        (["scene.png", "--model", "./absent"], 1, "'./absent': there is no such folder"),
        (["scene.png", "--model", "absent/absent"], 1, "'absent/absent' is no folder here, and the Hugging Face hub"),
        (["scene.png", "--model", "nothing"], 1, "'nothing' is no model: the folder holds no config.json"),
        (["scene.png", "--model", "scene.png"], 1, "'scene.png' is a file"),
        (["scene.png", "--model", "broken"], 1, "cannot read the model 'broken'"),
        (["scene.png", "--model", "llama"], 1, "'llama' cannot be pruned: there is no model family 'llama'"),
        (["scene.png", "--model", "weightless"], 1, "cannot load the model 'weightless'"),
        (["scene.png", "--model", "speechless"], 1, "does not have a chat template"),
        (["scene.png", "--model", " "], 2, "--model is empty"),
        (["scene.png", "--method", "gredyprune"], 2, "did you mean 'greedyprune'?"),
        (["scene.png", "--keep", "0.25"], 2, "'0.25' is no budget: write 64 for 64 visual tokens, or 25%"),
        (["scene.png", "--keep", "-3"], 2, "'-3' is no budget"),
        (["scene.png", "--keep", "abc"], 2, "'abc' is no budget"),
        (["scene.png", "--keep", "250%"], 2, "'250%' is no budget"),
        (["scene.png", "--at", "middle"], 2, "'middle' names no stage"),
        (["scene.png", "--at", "layer:9"], 1, "this model has 5 decoder layers"),
        (["scene.png", "--save", "absent/x.png"], 1, "'absent/x.png' cannot be written"),
        (["scene.png", "--save", "x.pic"], 2, "'x.pic': pictures are written as .png"),
        (["scene.png", "--dtype", "int8"], 2, "--dtype 'int8' is unknown"),
        (["scene.png", "--device", "toaster"], 2, "--device 'toaster' cannot be used"),
        (["scene.png", "--max-new-tokens", "0"], 2, "--max-new-tokens"),
        (["scene.png", "--bogus"], 2, "--bogus"),
        ([], 2, "greedyprune run --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], status: int, message: str
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    assert message in complaint(greedy("run", *options, "--ask", ASK), status)
    assert sorted(folder.iterdir()) == before


def test_other_bad_command_lines(folder: Path) -> None:
    assert "--ask" in complaint(greedy("run", folder / "scene.png"), 2)
    assert "--ask is empty" in complaint(greedy("run", folder / "scene.png", "--ask", " "), 2)
    assert "'rnu'" in complaint(greedy("rnu"), 2)
    assert "cannot be made a folder" in complaint(greedy("demo", "--save", folder / "text.png"), 1)


def test_an_unwritable_place_is_found_before_the_model_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greedyprune.cli._load.load", lambda *_: pytest.fail("the model was loaded"))
    for place in (folder / "text.png" / "x.png", folder / "nothing" / "absent" / "x.png"):
        complaint(greedy("run", folder / "scene.png", "--ask", ASK, "--save", place), 1)


def test_a_selection_without_a_grid_still_gives_its_answer(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("the selection has no grid")

    monkeypatch.setattr("greedyprune.plots.overlay", refuse)
    result = greedy("run", folder / "scene.png", "--ask", ASK, "--json", "--save", tmp_path / "x.png")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["overlay"] is None
    assert "has no grid" in result.stderr


def test_what_nobody_foresaw_is_one_line_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(*_: object) -> None:
        raise RuntimeError("the sky\nis falling")

    monkeypatch.setattr("greedyprune.cli._load.open_image", fall)
    command = ("run", folder / "scene.png", "--ask", ASK)
    line = complaint(greedy(*command), 1)
    assert "RuntimeError: the sky is falling" in line
    assert "GREEDYPRUNE_TRACEBACK=1" in line
    monkeypatch.setenv("GREEDYPRUNE_TRACEBACK", "1")
    assert "Traceback" in greedy(*command).stderr


def test_ctrl_c_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("greedyprune.cli._load.open_image", stop)
    assert "interrupted" in complaint(greedy("run", folder / "scene.png", "--ask", ASK), 130)


# As a process ---------------------------------------------------------------------------------------------------------


def test_a_process_of_its_own_keeps_standard_output_pure(folder: Path) -> None:
    good = outside("run", folder / "scene.png", "--ask", ASK, "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["pruned"]["answer"] == "yes"
    bad = outside("run", folder / "scene.png", "--ask", ASK, "--json", "--model", folder / "llama")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.count("\n") == 1


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom greedyprune.cli import main\n"
        "try: main()\nfinally: sys.stderr.write(str({'torch', 'transformers', 'PIL'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert out.stderr == "set()"


def test_a_console_without_greek_still_gets_the_list() -> None:
    out = outside("methods", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert out.returncode == 0
    assert "greedyprune" in out.stdout


def test_without_typer_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None\nfrom greedyprune.cli import main; main()"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 1
    assert out.stderr.strip().endswith("pip install 'greedyprune[cli]'")
    assert out.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_a_real_interrupt(folder: Path) -> None:
    code = (
        "import sys, time\nfrom greedyprune.cli import _load, main\n"
        "def wait(*_):\n    sys.stdout.write('ready\\n'); sys.stdout.flush(); time.sleep(60)\n"
        "_load.open_image = wait\nmain()"
    )
    command = [sys.executable, "-c", code, "run", str(folder / "scene.png"), "--ask", ASK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "greedyprune: error: interrupted.\n")
