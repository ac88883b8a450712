"""Sources of rows: a folder of images, a JSONL file, or a Parquet file. Any part of one can be read by its numbers.

A source is small and can be pickled, so that a worker on another machine reads its own part of the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from greedyprune.shown import short

FIELDS = ("id", "image", "images", "question", "greedyprune")
"""What is read of a row. Other columns are left alone."""
LONGEST_LINE = 256 << 20
"""Bytes of a line of JSONL, which may hold a picture."""
_STEP = 256
"""Lines between two places of a JSONL file that are remembered."""
_ENDS = 1 << 20
"""Bytes at either end of a file that its digest looks at."""


class Source(Protocol):
    """Rows by number, from 0. A row that cannot be read is a text, which says why."""

    @property
    def root(self) -> Path:
        """The folder that paths of images start from."""
        ...

    @property
    def unread(self) -> tuple[str, ...]:
        """The columns, or the files of a folder, that are not read."""
        ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> list[Mapping[str, Any] | str]:
        """The rows from `start` to `stop`, without `stop`."""
        ...

    def digest(self) -> str:
        """A text that changes if the rows do."""
        ...


def open_source(path: Path) -> Source:
    """Open a folder of images, a .jsonl file or a .parquet file.

        source = open_source(Path("pages.parquet"))
        len(source), source.read(0, 2)

    Raises ValueError if it is none of them or has no rows, and ImportError, which names the extra, if Parquet cannot be
    read.
    """
    if path.is_dir():
        found: Source = Pictures(path)
    elif not path.exists():
        raise ValueError(f"{str(path)!r}: there is no such file or folder.")
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        found = Lines(path)
    elif path.suffix.lower() in (".parquet", ".pq"):
        found = Table(path)
    else:
        raise ValueError(f"{str(path)!r} is no input: give a folder of images, a .jsonl file or a .parquet file.")
    if not len(found):
        raise ValueError(f"{str(path)!r} has no rows.")
    return found


class Pictures:
    """The pictures of a folder and of the folders in it, by name. The id of a row is the path inside the folder."""

    def __init__(self, folder: Path) -> None:
        from PIL import Image

        from greedyprune.preprocessing.pictures import FORMATS

        known = Image.registered_extensions()
        files = sorted(
            file.relative_to(folder).as_posix()
            for file in folder.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        )
        self.root = folder
        self._names = [name for name in files if known.get(Path(name).suffix.lower()) in FORMATS]
        pictures = set(self._names)
        self.unread = tuple(name for name in files if name not in pictures)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, start: int, stop: int) -> list[Mapping[str, Any] | str]:
        """The rows from `start` to `stop`."""
        return [{"id": name, "image": name} for name in self._names[start:stop]]

    def digest(self) -> str:
        """A digest of names and sizes."""
        sha = hashlib.sha256()
        for name in self._names:
            sha.update(f"{name} {(self.root / name).stat().st_size}\n".encode())
        return sha.hexdigest()[:16]


class Lines:
    """The lines of a JSONL file; empty ones are no rows."""

    def __init__(self, path: Path) -> None:
        self.path, self.root = path, path.parent
        self._places, self._numbers, self._count = array("Q"), array("Q"), 0
        with path.open("rb") as file:
            number, place = 0, 0
            while line := file.readline():
                number += 1
                if line.strip():
                    if self._count % _STEP == 0:
                        self._places.append(place)
                        self._numbers.append(number)
                    self._count += 1
                place += len(line)
        first = self.read(0, 1)[0] if self._count else {}
        self.unread = () if isinstance(first, str) else tuple(name for name in first if name not in FIELDS)

    def __len__(self) -> int:
        return self._count

    def read(self, start: int, stop: int) -> list[Mapping[str, Any] | str]:
        """The rows from `start` to `stop`."""
        found: list[Mapping[str, Any] | str] = []
        if not start < min(stop, self._count):
            return found
        with self.path.open("rb") as file:
            file.seek(self._places[start // _STEP])
            number, row = self._numbers[start // _STEP] - 1, start // _STEP * _STEP
            while row < stop and (line := file.readline()):
                number += 1
                if line.strip():
                    if row >= start:
                        found.append(_object(line, f"{self.path.name}:{number}"))
                    row += 1
        return found

    def digest(self) -> str:
        """A digest of the size and both ends of the file."""
        return _ends(self.path)


class Table:
    """The rows of a Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path, self.root = path, path.parent
        with _parquet(path) as file:
            names = list(file.schema_arrow.names)
            self._columns = [name for name in names if name in FIELDS]
            self.unread = tuple(name for name in names if name not in FIELDS)
            groups = file.metadata.num_row_groups
            self._sizes = [int(file.metadata.row_group(group).num_rows) for group in range(groups)]

    def __len__(self) -> int:
        return sum(self._sizes)

    def read(self, start: int, stop: int) -> list[Mapping[str, Any] | str]:
        """The rows from `start` to `stop`. Only the groups of rows that hold them are read."""
        found: list[Mapping[str, Any] | str] = []
        groups: list[int] = []
        first = at = 0
        for group, size in enumerate(self._sizes):
            if at < stop and at + size > start:
                first = at if not groups else first
                groups.append(group)
            at += size
        if not groups:
            return found
        row = first
        with _parquet(self.path) as file:
            for batch in file.iter_batches(batch_size=256, row_groups=groups, columns=self._columns):
                size = batch.num_rows
                if row < stop and row + size > start:
                    low, high = max(start - row, 0), min(stop - row, size)
                    given: list[dict[str, Any]] = batch.slice(low, high - low).to_pylist()
                    found += [{k: v for k, v in each.items() if v is not None} for each in given]
                row += size
                if row >= stop:
                    break
        return found

    def digest(self) -> str:
        """A digest of the size and both ends of the file; the end holds the places of all columns."""
        return _ends(self.path)


def _parquet(path: Path) -> Any:
    """An open Parquet file. Raises ImportError that names the extra, and ValueError if the file cannot be read."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"reading Parquet needs {missing.name}, which is not installed: pip install 'greedyprune[batch]'"
        ) from missing
    try:
        return ParquetFile(path, memory_map=True)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as Parquet: {error}") from error


def _object(line: bytes, name: str) -> Mapping[str, Any] | str:
    """The object on a line, or the reason why there is none."""
    if len(line) > LONGEST_LINE:
        return f"{name} has {len(line)} bytes, and a line may have {LONGEST_LINE}: write one row per line."
    try:
        given: Any = json.loads(line.decode("utf-8-sig"))
    except RecursionError:
        return f"{name} is nested too deeply: a row is flat."
    except ValueError as error:  # also a text that is not UTF-8
        return f"{name} is no JSON: {error}."
    if not isinstance(given, dict):
        return f'{name} is no row: write an object such as {{"image": "a.png", "question": "..."}}, not {short(given)}.'
    return {k: v for k, v in cast("dict[str, Any]", given).items() if v is not None}


def _ends(path: Path) -> str:
    size = os.path.getsize(path)
    with path.open("rb") as file:
        sha = hashlib.sha256(f"{size}".encode() + file.read(_ENDS))
        file.seek(max(size - _ENDS, 0))
        sha.update(file.read(_ENDS))
    return sha.hexdigest()[:16]
