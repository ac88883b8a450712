"""The command line: `greedyprune demo`, `run`, `verify`, `methods` and so on. Importing it imports nothing heavy."""

from __future__ import annotations

import io
import os
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that has no τ shows a question mark
            stream.reconfigure(errors="replace")
    if (here := os.getcwd()) not in sys.path:  # for `--method my_methods:Longest`; a script's own path lacks it
        sys.path.append(here)
    try:
        from greedyprune.cli.app import app
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("greedyprune"):
            raise
        sys.stderr.write(
            f"greedyprune: error: the command line needs {missing.name}, which is not installed: "
            "pip install 'greedyprune[cli]'\n"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    app()
