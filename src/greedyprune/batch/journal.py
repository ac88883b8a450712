"""The journal of a run: what is done, in the order of the rows, so that a run which was killed goes on.

Beside OUTPUT stands the folder OUTPUT.run with `run.json`, the settings that answers depend on, and a lock. A JSONL
output is its own journal: one line per row, and the lines that are there are the rows that are done. A Parquet output
is written at the end, from the lines of `OUTPUT.run/rows.jsonl`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from greedyprune.outputs import replacing, write_text
from greedyprune.shown import shown

COLUMNS = ("id", "answer", "error", "visual_tokens", "kept")
"""The columns of an output."""
_GROUP = 20_000
"""Rows of one group of a Parquet file."""


class Journal:
    """The rows of one output that are done. Only one process writes into it (see `locked`).

    Raises ValueError if the output belongs to another run, or if a line cannot be read.
    """

    def __init__(self, output: Path, settings: Mapping[str, object], rows: int) -> None:
        self.output, self.rows, self.folder = output, rows, folder_of(output)
        self._parquet = is_parquet(output)
        self._lines = self.folder / "rows.jsonl" if self._parquet else output
        about = self.folder / "run.json"
        if about.exists():
            _check(about, settings, output)
        elif output.exists():
            raise ValueError(f"{str(output)!r} is there, and this command did not write it: name another output.")
        else:
            if self._parquet:
                _arrow()  # before the work, not behind it
            write_text(about, json.dumps(dict(settings), indent=2) + "\n")
        self.failed = 0
        self.done = self._read()

    @property
    def complete(self) -> bool:
        """True if every row is done and the output is written."""
        return self.done == self.rows and self.output.exists()

    def _read(self) -> int:
        """Count the rows that are done, and cut off a line that was being written when the run ended."""
        if not self._lines.exists():
            if not self.output.exists():
                return 0
            self.failed = _failed_in(self.output)
            return self.rows  # a Parquet output is written once all rows are done
        done = whole = 0
        with self._lines.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                done, whole = done + 1, whole + len(line)
                self.failed += _record(line, self._lines, done)["error"] is not None
        if done > self.rows:
            raise ValueError(f"{str(self._lines)!r} has {done} lines for {self.rows} rows: name another output.")
        if whole < self._lines.stat().st_size:
            os.truncate(self._lines, whole)
        return done

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the records of the next rows."""
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with self._lines.open("a", encoding="utf-8", newline="", errors="backslashreplace") as file:
            file.write(text)
        self.done += len(records)
        self.failed += sum(record["error"] is not None for record in records)

    def finish(self) -> None:
        """Write the Parquet file, if that is wanted, once every row is done."""
        if not self._parquet or not self._lines.exists():
            return
        _write_parquet(self._lines, self.output)
        self._lines.unlink()


def folder_of(output: Path) -> Path:
    """The folder beside an output that holds what a run must remember."""
    return output.with_name(f"{output.name}.run")


def is_parquet(output: Path) -> bool:
    """True if this output is a Parquet file. Raises ValueError unless it is one or a JSONL file, by its ending."""
    suffix = output.suffix.lower()
    if suffix not in (".jsonl", ".ndjson", ".parquet", ".pq"):
        raise ValueError(f"the output {str(output)!r} is neither .jsonl nor .parquet: give it one of these endings.")
    return suffix in (".parquet", ".pq")


def _check(about: Path, settings: Mapping[str, object], output: Path) -> None:
    """Raise ValueError unless a run of these settings is in the folder."""
    try:
        before: Any = json.loads(about.read_bytes())
        if not isinstance(before, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{str(about)!r} cannot be read ({error}): name another output, or delete this one and the folder "
            f"{about.parent.name}."
        ) from error
    held, wanted = cast("dict[str, Any]", before), json.loads(json.dumps(dict(settings)))
    other = [name for name in {**held, **wanted} if held.get(name) != wanted.get(name)]
    if other:
        told = ", ".join(f"{name} was {shown(held.get(name))} and is {shown(wanted.get(name))}" for name in other)
        raise ValueError(
            f"{str(output)!r} belongs to a run with other settings ({told}): name another output, or delete it and the "
            f"folder {about.parent.name}."
        )


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        found: Any = json.loads(line)
        if not isinstance(found, dict) or not set(COLUMNS) <= set(cast("dict[str, Any]", found)):
            raise ValueError("it lacks a column")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}:{number} is no record ({error}): cut the file off in front of that line, and the rows from "
            "there on are answered again."
        ) from error
    return cast("dict[str, Any]", found)


def _arrow() -> Any:
    """pyarrow, with its module for Parquet. Raises ImportError, which names the extra."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"writing Parquet needs {missing.name}, which is not installed: pip install 'greedyprune[batch]'"
        ) from missing
    return pyarrow


def _write_parquet(lines: Path, output: Path) -> None:
    """Write the records as a Parquet file. Ids are whole numbers if all of them are; otherwise they are texts."""
    arrow = _arrow()
    whole = all(isinstance(record["id"], int) for record in _records(lines))
    kinds = (arrow.int64() if whole else arrow.string(), *[arrow.string()] * 2, *[arrow.int64()] * 2)
    schema = arrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    records = _records(lines)
    with replacing(output) as fresh, arrow.parquet.ParquetWriter(fresh, schema) as file:
        while group := list(islice(records, _GROUP)):
            for record in group:
                record["id"] = record["id"] if whole else str(record["id"])
            file.write_table(arrow.Table.from_pylist(group, schema))


def _records(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield _record(line, lines, number)


def _failed_in(output: Path) -> int:
    """The number of rows of a Parquet output that failed."""
    column = _arrow().parquet.read_table(output, columns=["error"])["error"]
    return len(column) - int(column.null_count)
