"""Outputs: write a file completely or not at all, in UTF-8 with the same line ends on every system; CSV rows.

    prove_writable(path)        # before the work
    write_text(path, text)      # after it

The text goes into a new file in the same folder, which takes the name of the old one at the end. If the disk is full
or the process is killed, the old file stays as it was. A pipe or a device is written in place.
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
"""The beginning of a text that a spreadsheet would run as a formula, or that `guarded` marked."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_Cell = TypeVar("_Cell")


def prove_writable(path: Path) -> None:
    """Raise OSError unless this file can be written. The check changes no file and leaves none."""
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
    """Raise OSError unless files can be written into this folder. It need not exist yet. The check leaves no file."""
    near = Path(os.path.realpath(path))
    while not near.exists():
        near = near.parent
    if not near.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(near))
    prove_writable(_beside(near / "file"))


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a new file to write, and rename it to `path` at the end. On an error it is deleted and `path` unchanged.

    It has the suffix of `path`. A link is followed. The new file gets the permissions of the file that it replaces.
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
    """Write a text file in UTF-8, with the line ends of the text."""
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8", newline="")


def write_csv(path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Write rows under a header. `read_csv` returns their texts unchanged. None is an empty cell."""
    with replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(_Lines(file), fieldnames=columns, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows({name: guarded(cell) for name, cell in row.items()} for row in rows)


class _Lines:
    """A file whose rows end in a bare line feed. Python's writer quotes a cell with a carriage return only if rows end
    in one, and such a cell without quotes would start a new row.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        """Write one row."""
        return self._file.write(row.removesuffix("\r\n") + "\n")


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a file that `write_csv` wrote, every cell as text."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: _bare(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def guarded(cell: _Cell) -> _Cell | str:
    """Put an apostrophe before a text that a spreadsheet would run as a formula.

    Numbers stay, and so do texts of numbers. A text of apostrophes followed by a formula gets one more apostrophe, so
    reading removes exactly the one that writing added.
    """
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def _bare(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_special(path: Path) -> bool:
    """True if a pipe or a device exists at this path. No file may replace it."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _beside(path: Path) -> Path:
    """A new name in the same folder, with the same suffix."""
    return path.with_name(f".{path.stem[:40]}-{secrets.token_hex(6)}{path.suffix[:20]}")
