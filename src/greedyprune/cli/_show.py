"""How commands print: results on standard output, progress on standard error, JSON as one document."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from greedyprune.cli._errors import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PAUSE = 60.0
"""Seconds between lines of progress if standard error is no terminal."""
WIDTH = 100
"""The width in columns if the output is no terminal."""


def console() -> Console:
    """Standard output as it is now."""
    # No markup: answers and file names may hold square brackets. What has a colour is a `Text`.
    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=WIDTH)


def table(*columns: str, **more: Any) -> Table:
    """An empty table in the house style."""
    return Table(*columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold", **more)


def print_card(facts: Iterable[tuple[str, str]]) -> None:
    """Print facts below each other: the name of each, and beside it the text, if there is any, at any width."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold", overflow="fold")
    shown.add_column(overflow="fold")
    for name, text in facts:
        if text:
            shown.add_row(name, text)
    console().print(shown)


def print_json(document: object) -> None:
    """Print one JSON document, in ASCII, so that no encoding can spoil it."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def tick(right: bool) -> Text:
    """A mark for right or wrong that standard output can show, in its colour."""
    utf = "utf" in (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return Text("✓" if utf else "+", "green") if right else Text("✗" if utf else "x", "red")


def size(count: float) -> str:
    """Bytes as short text."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit != "MB" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def flops(count: float) -> str:
    """Floating-point operations as short text."""
    for unit in ("", "k", "M", "G", "T"):
        if count < 999.5:
            return f"{count:.3g} {unit}FLOPs"
        count /= 1000
    return f"{count:.3g} PFLOPs"


@contextmanager
def progress(text: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error. Yields `say(text="", done=None)`: `done` of `total` are finished.

    If standard error is no terminal, such as the log of a cluster's job, it gets a line a minute.
    """
    err = Console(stderr=True)
    if not err.is_terminal:
        yield _line_by_line(text, total)
        return
    bars = [BarColumn(), TimeRemainingColumn()] if total else []
    parts = [SpinnerColumn(), TextColumn("{task.description}"), *bars, TimeElapsedColumn()]
    with Progress(*parts, console=err, transient=True) as bar:
        task = bar.add_task(text, total=total)

        def say(text: str = "", done: int | None = None) -> None:
            bar.update(task, completed=done, description=text or None)

        yield say


def _line_by_line(text: str, total: int | None) -> Callable[..., None]:
    """The `say` of `progress` that writes lines."""
    told, begun = text, time.monotonic()
    last = begun

    def say(text: str = "", done: float | None = None) -> None:
        nonlocal told, last
        told, now = text or told, time.monotonic()
        if now - last < PAUSE:
            return
        last = now
        share = f", {100 * done / total:.0f} % done" if done is not None and total else ""
        note(f"{told}{share} after {now - begun:.0f} s")

    return say
