"""Rows of results: CSV files with where and how every number was measured."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import greedyprune


def provenance() -> dict[str, str]:
    """Where and with what a measurement is made."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": version("torch"),
        "greedyprune": greedyprune.__version__,
        "command": " ".join(["greedyprune", *sys.argv[1:]]),
    }


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows with their provenance beside each; the header is that of the first row."""
    listed = [{**row, **provenance()} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(listed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
