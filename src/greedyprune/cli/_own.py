"""`greedyprune --import FILE.py`: a file of the user's own, which registers methods, is run before the command."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from greedyprune.cli._errors import Failure, misuse, one_line

if TYPE_CHECKING:
    from pathlib import Path


def run_file(path: Path) -> None:
    """Import a file as a module. Its folder joins the end of the module path, so that worker processes find it, too.

    At the end, no other file of the folder stands in front of a library of the same name.

    Raises Failure if there is no such file, if another module has its name, or if running it fails.
    """
    if path.suffix != ".py" or not path.is_file():
        raise misuse(f"--import {str(path)!r} is no Python file: name one that calls greedyprune.register.")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return
    if not name.isidentifier() or known is not None or name in sys.stdlib_module_names or _elsewhere(name, path):
        raise misuse(f"--import {str(path)!r}: {name!r} cannot name a module of yours, rename the file.")
    sys.path.append(folder := str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name)
        sys.path.remove(folder)
        raise Failure(f"--import {str(path)!r} fails: {type(error).__name__}: {one_line(error)}") from error


def _elsewhere(name: str, path: Path) -> bool:
    """Whether `import name` finds another file than this one."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin != str(path.resolve())
