"""Rows of results: CSV files that say how every number was measured."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import greedyprune
from greedyprune.outputs import write_csv


def provenance() -> dict[str, str]:
    """Date, machine, versions, commit and command of a measurement."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "greedyprune": greedyprune.__version__,
        "commit": commit(),
        "command": shlex.join(["greedyprune", *sys.argv[1:]]),
    }


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows with their provenance in each. The header is that of the first row."""
    where = provenance()
    listed = [{**row, **where} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, listed, list(listed[0]))


def commit() -> str:
    """The commit of the library's source tree, with a + where files differ from it; empty outside a checkout."""
    here = Path(greedyprune.__file__).parent
    try:
        git = ["git", "-C", str(here)]
        if subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True).returncode:
            return ""  # installed into some other repository's tree
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.decode("ascii").strip() + ("+" if changed.stdout.strip() else "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
