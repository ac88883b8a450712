"""Errors are one line on standard error, with an exit status that scripts can tell apart. There are no tracebacks."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from greedyprune.extras import unfit

if TYPE_CHECKING:
    from collections.abc import Callable

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
TRACEBACK = "GREEDYPRUNE_TRACEBACK"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The numbers of errors that say that a disk or a quota is full."""

_Usage: Any = typer.BadParameter.__base__
"""click's UsageError; some releases of typer carry a click of their own, so it cannot be imported by name."""


class Failure(Exception):
    """An error that a user can understand and mend. Its text is the whole message."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def misuse(message: object) -> Failure:
    """A Failure for a wrong command line, with exit status 2."""
    return Failure(str(message), MISUSED)


def one_line(text: object) -> str:
    """The text on one line, without control characters: names may come from files of others."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(text).split()))


def note(text: object) -> None:
    """Print a message on standard error."""
    sys.stderr.write(f"greedyprune: {one_line(text)}\n")


def as_switches(options: list[Any]) -> list[Any]:
    """Say of options without a value that they take none: typer would print `--json <bool>`. -> the options"""
    for option in options:
        if getattr(option, "is_flag", False):
            option.metavar = ""
    return options


class OneLine(TyperGroup):
    """A group of commands; it prints errors as this module says."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of the group, switches without a type."""
        return as_switches(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name. It prints its switches without a type."""
        found: Any = super().get_command(ctx, cmd_name)
        if found is not None:
            as_switches(found.get_params(ctx))
        return found

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Run a command and exit with its status, unless the caller wants to handle errors."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        kwargs["prog_name"] = "greedyprune"  # also under `python -m`
        sys.exit(explained(lambda: super(OneLine, self).main(*args, standalone_mode=False, **kwargs)))

    def invoke(self, ctx: Any) -> Any:
        """Turn Ctrl-C into a Failure, before typer handles it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Failure("interrupted.", INTERRUPTED) from stop


def explained(command: Callable[[], Any]) -> int:
    """Run a command and print its error, if there is one. -> exit status"""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
            status = command()
        return status if isinstance(status, int) else 0
    except Exception as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        message, status = _explain(error)
        note(f"error: {message}")
        return status


def _beneath(error: BaseException | None) -> str:
    """What lies beneath an import that failed: a torchvision of another torch. Empty if that is not it."""
    reason = unfit("torchvision") if isinstance(error, (ImportError, RuntimeError)) else None
    if reason is None:
        return ""
    return f" The installed torchvision does not fit this torch ({reason}): install the one that does, or uninstall it."


def _explain(error: Exception) -> tuple[str, int]:
    """A message and an exit status."""
    if isinstance(error, Failure):
        return f"{error}{_beneath(error.__cause__)}", error.status
    if isinstance(error, _Usage):
        where = getattr(getattr(error, "ctx", None), "command_path", "greedyprune")
        said: Any = error
        return f"{said.format_message().rstrip('.')} (see {where} --help)", MISUSED
    if isinstance(error, ImportError):
        return f"{error}{_beneath(error)}", FAILED
    if isinstance(error, OSError) and error.errno in FULL:
        return f"what is printed or saved cannot be written: {os.strerror(error.errno or 0)}.", FAILED
    if isinstance(error, typer.Abort):
        return "interrupted.", INTERRUPTED
    return f"{type(error).__name__}: {error} (set {TRACEBACK}=1 to see where)", FAILED
