"""`make test-vllm`: vLLM against transformers, on the bundled checkpoints and on tiny ones with random weights.

`python tests/vllm/run.py qwen` runs one of them. The figures of each go to files of its own, results/vllm/qwen.csv and
qwen.log. The exit status is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import csv
import gc
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import engine  # first: it sets vLLM's environment
from checks import Checks, Row
from reference import export

RESULTS = Path(__file__).parents[2] / "results" / "vllm"
PACKAGES = ("vllm", "transformers", "torch", "greedyprune")
PARTS = ("stock", "parity", "several", "methods", "bad", "controls", "chunks", "uncached", "starts", "served")


def rows(name: str, parts: list[str], n: int, folder: Path) -> Iterator[Row]:
    """All checks of one checkpoint, as they are made."""
    checks = Checks(name, export(name, folder), n)
    yield from checks.stock()
    gc.collect()
    together = [part for part in PARTS[1:6] if part in parts]
    if together:
        pruned = checks.start()
        for part in together:
            yield from getattr(checks, part)(pruned)
        del pruned
        gc.collect()
    for part in ("chunks", "uncached", "starts"):
        if part in parts:
            yield from getattr(checks, part)()
            gc.collect()
    if "served" in parts:
        from served import served

        yield from served(checks)


def say(log: TextIO, line: str) -> None:
    """Print a line, and write it to a log."""
    print(line, flush=True)
    log.write(line + "\n")
    log.flush()


def main() -> int:
    """Run, write the figures, and say what failed. -> exit status"""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("models", nargs="*", default=list(engine.ARCHITECTURES))
    options.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    options.add_argument("--pairs", type=int, default=20, help="8 or more")
    options.add_argument("--out", type=Path, default=RESULTS, help="a folder")
    given = options.parse_args()
    if given.pairs < 8:
        options.error(f"--pairs {given.pairs}: eight requests run at once, so write 8 or more.")
    given.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in given.models:
        path = given.out / f"{name}.csv"
        with (
            path.open("w", newline="", encoding="utf-8") as file,
            path.with_suffix(".log").open("w", encoding="utf-8") as log,
            tempfile.TemporaryDirectory() as folder,
        ):
            writer = csv.DictWriter(file, [each.name for each in fields(Row)], lineterminator="\n")
            writer.writeheader()
            say(log, f"{name}, {given.pairs} pairs, " + ", ".join(f"{each} {version(each)}" for each in PACKAGES))
            for row in rows(name, given.parts, given.pairs, Path(folder) / name):
                plain = asdict(row) | {"largest_difference": f"{row.largest_difference:.1e}"}
                writer.writerow(plain)
                file.flush()
                failed += not row.passed
                verdict = "passed" if row.passed else "FAILED"
                say(log, " | ".join(map(str, (verdict, *list(plain.values())[:6], row.note))))
    print(f"{failed} checks failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
