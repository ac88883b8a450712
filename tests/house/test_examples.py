"""The examples run as written, offline, and show what they promise."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

for needed in ("sklearn", "skimage", "matplotlib"):
    pytest.importorskip(needed)

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture
def shown(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> str:
    """What the example of this name prints."""
    runpy.run_path(str(FOLDER / f"{request.param}.py"), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("shown", ["quickstart"], indirect=True)
def test_quickstart(shown: str) -> None:
    answer, right = re.search(r"\? (.+) \(right answer: (.+)\)", shown).groups()  # type: ignore[union-attr]
    assert answer == right
    assert "144 -> 16 visual tokens" in shown


@pytest.mark.parametrize("shown", ["plain_tensors"], indirect=True)
def test_plain_tensors(shown: str) -> None:
    assert "576 -> 64 tokens, features (64, 64)" in shown
    assert float(re.search(r"two kept tokens: (\S+)", shown).group(1)) <= 0.25  # type: ignore[union-attr]


@pytest.mark.wide  # 200 questions
@pytest.mark.parametrize("shown", ["compare_methods"], indirect=True)
def test_compare_methods(shown: str) -> None:
    right = [int(count) for count in re.findall(r"(\d+) of 40", shown)]
    assert len(right) == 5
    assert right[0] > 32  # the dense model
    assert right[1] > max(right[3:]) + 4  # GreedyPrune against random and grid


def test_every_example_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {"quickstart", "plain_tensors", "compare_methods"}
