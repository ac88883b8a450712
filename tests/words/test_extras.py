"""Modules run by hand end with their status, and name the extra if a package is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from greedyprune.extras import by_hand, unfit


def test_the_status_of_main_is_that_of_the_program() -> None:
    for status in (None, 0, 3):
        with pytest.raises(SystemExit) as ended:
            by_hand(lambda status=status: status, "testbed")
        assert ended.value.code == status


def test_a_missing_package_is_one_line_with_its_extra() -> None:
    def main() -> None:
        raise ModuleNotFoundError("No module named 'sklearn.svm'", name="sklearn.svm")

    with pytest.raises(SystemExit, match=r"^error: this needs sklearn, .*: pip install 'greedyprune\[testbed\]'$"):
        by_hand(main, "testbed")


def test_an_error_that_names_its_remedy_is_told_as_it_is() -> None:
    def main() -> None:
        raise ImportError("pip install lmms-eval")

    with pytest.raises(SystemExit, match=r"^error: pip install lmms-eval$"):
        by_hand(main, "all")


def test_a_fault_of_our_own_is_no_missing_extra() -> None:
    def main() -> None:
        raise ModuleNotFoundError("no", name="greedyprune.gone")

    with pytest.raises(ModuleNotFoundError):
        by_hand(main, "all")


def test_a_package_that_does_not_load_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "built_for_another.py").write_text("raise RuntimeError('no such operator\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    assert unfit("built_for_another") == "no such operator"
    assert unfit("json") is None
    assert unfit("not_installed_at_all") is None
