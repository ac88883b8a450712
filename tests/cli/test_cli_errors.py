"""The command line: whatever is wrong is said in one line with the right status, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from commands import ASK, complaint, fill, greedy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("given"))


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["missing.png"], 1, "'missing.png': there is no such file"),
        (["cut.png"], 1, "'cut.png' cannot be read"),
        (["empty.png"], 1, "'empty.png' is empty (0 bytes)"),
        (["text.png"], 1, "'text.png' is no image"),
        (["nothing"], 1, "the folder 'nothing' holds no picture: known are PNG,"),
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
        (["scene.png", "--keep", "total:64 per layer"], 2, "--keep keep=Total(tokens=64, floor=1) is shared between"),
        (["scene.png", "--keep", "-3"], 2, "'-3' is no budget"),
        (["scene.png", "--keep", "abc"], 2, "'abc' is no budget"),
        (["scene.png", "--keep", "250%"], 2, "'250%' is no budget"),
        (["scene.png", "--at", "middle"], 2, "'middle' names no stage"),
        (["scene.png", "--at", "layer:9"], 1, "this model has 5 decoder layers"),
        (["scene.png", "--save", "absent/x.png"], 1, "'absent/x.png' cannot be written"),
        (["scene.png", "--save", "x.pic"], 2, "'x.pic': write a name that ends in .png"),
        (["scene.png", "--dtype", "int8"], 2, "--dtype 'int8' is unknown"),
        (["scene.png", "--device", "toaster"], 2, "--device 'toaster' cannot be used"),
        (["scene.png", "--max-new-tokens", "0"], 2, "--max-new-tokens"),
        (["scene.png", "--bogus"], 2, "--bogus"),
        (["clip.mp4"], 1, "clip 'clip.mp4': a 'llava' model reads no videos"),
        (["film.gif"], 1, "clip 'film.gif': a 'llava' model reads no videos"),
        (["scene.png", "--positions", "new"], 2, "--positions 'new' is unknown: choose one of original, compact"),
        (["scene.png", "--method", '{"type": "random", "at": "layer:2"}'], 2, "Random cannot run at 'layer:2'"),
        (["scene.png", "--method", '{"type": "gredyprune"}'], 2, "did you mean 'greedyprune'?"),
        (["scene.png", "--method", '{"type": "greedyprune", "tua": 1}'], 2, "option of 'greedyprune' 'tua': did you"),
        (["scene.png", "--method", '{"type": "greedyprune", "tau": {"type": "quantil"}}'], 2, "mean 'quantile'?"),
        (["scene.png", "--method", '{"type": "greedyprune", "fallback": "salency"}'], 2, "choose one of saliency,"),
        (["scene.png", "--method", '{"type": "quantile", "q": 0.5}'], 2, "'quantile' is no method: see greedyprune"),
        (["scene.png", "--method", '{"tau": 0.5}'], 2, 'the JSON has no "type"'),
        (["scene.png", "--method", '{"type": greedyprune}'], 2, "--method is no JSON: Expecting value at character 10"),
        (["scene.png", "--method", "{'type': 'greedyprune'}"], 2, "--method is no JSON"),
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
    marked = greedy("run", folder / "scene.png", "--ask", "<image> what is it ?")
    assert "the question holds '<image>', which stands for a picture: leave it out" in complaint(marked, 2)
    assert "--ask is empty" in complaint(greedy("run", folder / "scene.png", "--ask", " "), 2)
    absent = ("run", folder / "scene.png", "--prompt-file", folder / "absent.txt")
    assert "absent.txt' cannot be read: No such file" in complaint(greedy(*absent), 2)
    assert "write one question" in complaint(greedy(*absent, "--ask", ASK), 2)
    assert "--prompt-file is empty" in complaint(greedy(*absent[:-1], folder / "empty.png"), 2)
    assert "'rnu'" in complaint(greedy("rnu"), 2)
    pytest.importorskip("matplotlib")
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


def test_a_full_disk_is_no_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("greedyprune.cli.methods.print_json", full)
    line = complaint(greedy("methods", "--json"), 1)
    assert line.endswith("cannot be written: No space left on device.")
    assert "TRACEBACK" not in line


def test_a_torchvision_of_another_torch_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("greedyprune.cli._errors.unfit", lambda name: f"operator {name}::nms does not exist")

    def broken(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("Could not import module 'LlamaConfig'.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", broken)
    line = complaint(greedy("run", "scene.png", "--ask", ASK), 1)
    assert "'LlamaConfig'. The installed torchvision does not fit this torch (operator torchvision::nms" in line
    assert line.endswith("install the one that does, or uninstall it.")
