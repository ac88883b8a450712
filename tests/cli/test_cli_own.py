"""`greedyprune --import FILE`: methods of the user's own in every command, and errors that name the file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from commands import complaint, greedy
from greedyprune.registry import REGISTERED

BRIGHT = '''
from dataclasses import dataclass

import greedyprune as gp


@gp.register
@dataclass(frozen=True, kw_only=True)
class Brightest(gp.Method):
    """Keep the longest rows."""

    power: float = 1.0

    def select(self, cues, k):
        gains = cues.features.norm(dim=1) ** self.power
        order = gains.argsort(descending=True)[:k]
        return gp.Keep.from_order(order, gains[order], cues.n)
'''


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A file with a method, in a folder with one question."""
    before, path = dict(REGISTERED), list(sys.path)
    file = tmp_path / "my_bright_file.py"
    file.write_text(BRIGHT)
    (tmp_path / "json.py").write_text("raise ImportError('this is not the json of Python')")
    Image.new("RGB", (168, 168), "red").save(tmp_path / "red.png")
    line = {"image": "red.png", "question": "is there a red circle ?", "answer": ["yes", "no"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(line))
    yield file
    sys.modules.pop("my_bright_file", None)
    sys.path[:] = path
    REGISTERED.clear()
    REGISTERED.update(before)


def test_a_method_of_a_users_file_is_evaluated_by_its_name(own: Path, tmp_path: Path) -> None:
    few = ("eval", "--data", tmp_path, "--model", "llava", "--keep", "1/4", "--methods", "brightest", "--workers", "2")
    result = greedy("--import", own, *few, "--batch", "1", "--json")
    assert result.exit_code == 0, result.output
    assert [(row["method"], row["kept"]) for row in json.loads(result.stdout)] == [("dense", 144), ("brightest", 36)]
    assert "brightest" in greedy("methods").stdout
    assert "power" in greedy("methods", "brightest").stdout


def test_a_file_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken_file.py").write_text("import nothing_of_this_name")
    (tmp_path / "json.py").write_text("")
    (tmp_path / "skimage.py").write_text("")
    path = list(sys.path)
    for name, status, text in (
        ("absent.py", 2, "is no Python file"),
        ("broken_file.py", 1, "fails: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("json.py", 2, "'json' cannot name a module of yours"),
        ("skimage.py", 2, "'skimage' cannot name a module of yours"),
    ):
        said = complaint(greedy("--import", tmp_path / name, "methods"), status)
        assert str(tmp_path / name) in said
        assert text in said
        assert sys.path == path
