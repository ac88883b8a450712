"""Files that a command writes: checked before the work, and a failed write never costs what is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greedyprune.cli._errors import Failure, misuse, one_line
from greedyprune.outputs import prove_folder, prove_writable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def check_path(option: str, path: Path | None) -> None:
    """Raise Failure unless this file can be written. Leaves nothing behind."""
    if path is None:
        return
    try:
        prove_writable(path)
    except OSError as error:
        raise Failure(f"{_about(option, path, error)} Name a file in a folder that you may write to.") from error


def check_paths(paths: Mapping[str, Path | None]) -> None:
    """Check the files of several options, and that no two of them are one file."""
    named: dict[Path, str] = {}
    for option, path in paths.items():
        check_path(option, path)
        if path is not None and (path.is_file() or not path.exists()):
            other = named.setdefault(path.resolve(), option)
            if other != option:
                raise misuse(f"{other} and {option} name one file, {str(path)!r}: give each its own.")


def check_folder(option: str, path: Path | None) -> None:
    """Raise Failure unless files can be written into this folder, which need not exist yet. Leaves nothing behind."""
    if path is None:
        return
    try:
        prove_folder(path)
    except OSError as error:
        raise Failure(f"{_about(option, path, error)} Name a folder that you may write to.") from error


def make_folder(option: str, path: Path) -> None:
    """Make a folder if it is not there. Raises Failure unless files can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{option} {str(path)!r} cannot be made a folder: {error.strerror}.") from error
    check_folder(option, path)


def written(option: str, path: Path | None, write: Callable[[Path], object]) -> Failure | None:
    """Write a file, if one is wanted. -> the error, to be raised after all results are printed"""
    if path is None:
        return None
    try:
        write(path)
    except Exception as error:  # drawing and counting, too, must not cost what is there to be printed
        said = f"{option} {str(path)!r} is not written: {one_line(error) or type(error).__name__}"
        found = Failure(_about(option, path, error) if isinstance(error, OSError) else said)
        found.__cause__ = error
        return found
    return None


def _about(option: str, path: Path, error: OSError) -> str:
    return f"{option} {str(path)!r} cannot be written: {error.strerror or one_line(error)}."
