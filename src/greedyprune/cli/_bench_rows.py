"""The file that a measurement writes its rows to: checked before, written before anything is printed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from greedyprune.cli._outputs import check_path, make_folder, written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def check(save: Path | None) -> None:
    """Raise Failure unless rows can be written to this file. Makes its folder."""
    if save is not None:
        make_folder("--save", save.parent)
        check_path("--save", save)


@contextmanager
def saved(save: Path | None, measured: list[dict[str, object]]) -> Iterator[None]:
    """Write the rows; inside they are printed. If they were not written, that is the error at the end."""
    from greedyprune.bench import rows

    problem = written("--save", save, lambda path: rows.write(path, measured))
    yield
    if problem is not None:
        raise problem
