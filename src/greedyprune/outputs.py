"""Outputs: files that are written whole or not at all, in UTF-8 with the same line ends everywhere, and CSV rows.

    prove_writable(path)        # before the work
    write_text(path, text)      # after it

What is written goes into a file beside the one that is named and takes its name at the end, so that a full disk or a
kill in the middle leaves the old file as it was. A pipe or a device is written in place.
"""

from __future__ import annotations

import csv
import errno
import os
import re
import secrets
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, TypeVar

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""How a text begins that a spreadsheet would run, or that was marked so that it would not."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_Cell = TypeVar("_Cell")


def prove_writable(path: Path) -> None:
    """Raise OSError unless this file can be written. Changes no file and leaves none."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if _is_special(path):
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return
    real = Path(os.path.realpath(path))
    if real.exists():
        with real.open("ab"):
            pass
        real = _beside(real)
    with real.open("xb"):
        pass
    real.unlink()


def prove_folder(path: Path) -> None:
    """Raise OSError unless files can be written into this folder, which need not exist yet. Leaves nothing behind."""
    near = Path(os.path.realpath(path))
    while not near.exists():
        near = near.parent
    if not near.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(near))
    prove_writable(_beside(near / "file"))


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A file to write into that takes the name of `path` at the end; on any error it goes and `path` is as it was.

    It has the ending of `path`. A link is followed, and a file that is replaced gives its permissions.
    """
    if _is_special(path):
        yield path
        return
    real = Path(os.path.realpath(path))
    fresh = _beside(real)
    try:
        yield fresh
        if real.exists():
            shutil.copymode(real, fresh)
        os.replace(fresh, real)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file: UTF-8, and line ends as they stand in the text."""
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8", newline="")


def write_csv(path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Write rows under a header; `read_csv` gives their texts back. None is an empty cell."""
    with replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(_Lines(file), fieldnames=columns, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows({name: guarded(cell) for name, cell in row.items()} for row in rows)


class _Lines:
    """A file of rows that end in a bare line feed. Python's writer puts cells with a carriage return into quotes only
    where rows end in one, and without quotes such a cell is a new row.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        """Write one row."""
        return self._file.write(row.removesuffix("\r\n") + "\n")


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file that `write_csv` wrote, every cell as text."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: _bare(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def guarded(cell: _Cell) -> _Cell | str:
    """A cell that no spreadsheet runs as a formula: texts that would be one get an apostrophe in front.

    Numbers stay, also those that are written as texts. A text that begins with apostrophes and then like a formula gets
    one more, so that reading takes away exactly what writing added.
    """
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def _bare(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_special(path: Path) -> bool:
    """Is it there, and neither a file nor a folder: a pipe or a device, whose name must not be taken by a file?"""
    return path.exists() and not path.is_file() and not path.is_dir()


def _beside(path: Path) -> Path:
    """A name that nobody has, in the same folder and with the same ending."""
    return path.with_name(f".{path.stem[:40]}-{secrets.token_hex(6)}{path.suffix[:20]}")
