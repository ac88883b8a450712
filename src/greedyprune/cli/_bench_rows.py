"""The file that a measurement writes its rows to: checked before, written before anything is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greedyprune.cli._outputs import check_path, make_folder, written

if TYPE_CHECKING:
    from pathlib import Path

    from greedyprune.cli._errors import Failure


def check(save: Path | None) -> None:
    """Raise Failure unless rows can be written to this file. Makes its folder."""
    if save is not None:
        make_folder("--save", save.parent)
        check_path("--save", save)


def write(save: Path | None, measured: list[dict[str, object]]) -> Failure | None:
    """Write the rows. -> the error if they are not written; they are printed in any case"""
    from greedyprune.bench import rows

    return written("--save", save, lambda path: rows.write(path, measured))


def end(problem: Failure | None) -> None:
    """Raise the error, if there was one."""
    if problem is not None:
        raise problem
