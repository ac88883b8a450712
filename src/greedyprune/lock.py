"""The lock of a run folder: one process at a time works in it, and a lock ends with its process, however that ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

NAME = "lock"
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the lock of this folder, which is made if it is not there. Raises ValueError if another process holds it.

    The operating system keeps the lock (flock, or LockFile on Windows), so that a process which was killed leaves none;
    the empty file `lock` stays and means nothing. Where a file system knows no locks, there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("ab") as file:
        try:
            _acquire(file.fileno())
        except OSError as error:
            if error.errno in _HELD:
                raise ValueError(
                    f"another process works in the run folder {folder}: wait until it has ended, or name another."
                ) from error
        yield  # closing the file gives the lock back


def _acquire(file: int) -> None:
    """Take the lock of an open file. Raises OSError at once if another one has it."""
    if os.name == "nt":
        windows: Any = import_module("msvcrt")
        windows.locking(file, windows.LK_NBLCK, 1)
        return
    with suppress(ModuleNotFoundError):  # a Python without it has no locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
