"""A table as papers print it: one checkpoint on the field's benchmarks, at three budgets, with controls beside.

    python -m greedyprune.engines.lmms_eval.table llava --out table-llava --dry-run     # print the commands
    python -m greedyprune.engines.lmms_eval.table llava --out table-llava               # run them, then print the table
    python -m greedyprune.engines.lmms_eval.table qwen --tasks pope,gqa --limit 50      # a first look

Every line of the table is one call of lmms-eval, and a line that is there is not run again. It needs a GPU, the
weights, and the data sets, which lmms-eval downloads.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from greedyprune.engines.lmms_eval import DENSE, DOWNSCALE
from greedyprune.extras import by_hand
from greedyprune.outputs import write_csv, write_text

TASKS = {
    "pope": "pope_f1_score",
    "textvqa_val": "exact_match",
    "gqa": "exact_match",
    "mme": "mme_perception_score",
    "mmbench_en_dev_static": "gpt_eval_score",
    "chartqa": "relaxed_overall",
    "docvqa_val": "anls",
    "ocrbench": "ocrbench_accuracy",
    "refcoco_bbox_rec_val": "refcoco_ACC@0.5",
}
"""The tasks of lmms-eval, and the number of each that papers print."""
METHODS = ("soft_greedyprune", "greedyprune", "divprune", "cdpruner", "fastv", "visionzip", "random", "grid")
"""The methods that are compared, controls last."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint and the budgets that papers print of it."""

    pretrained: str
    budgets: tuple[str, ...]
    control: str
    """Down-scaling, or average pooling for a model whose processor makes every image one size."""


CHECKPOINTS = {
    "llava": Checkpoint(
        "llava-hf/llava-1.5-7b-hf", ("192", "128", "64", "192 per layer", "128 per layer", "64 per layer"), "pool"
    ),
    "qwen": Checkpoint("Qwen/Qwen2.5-VL-7B-Instruct", ("1/3", "2/9", "1/9"), DOWNSCALE),
}
"""LLaVA-1.5 has 576 visual tokens; an image of Qwen2.5-VL has its own number, so its budgets are the same shares."""


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    method: str
    keep: str

    @property
    def name(self) -> str:
        """A name for its folder."""
        return "-".join((self.method, *self.keep.replace("/", "of").split()))


def lines_of(checkpoint: Checkpoint) -> list[Line]:
    """The lines of a table: the dense model, then every method at every budget, and the control that fits."""
    found = [Line(DENSE, "all")]
    for keep in checkpoint.budgets:
        # Pooling and down-scaling happen in front of the decoder, where the average over layers is the count.
        controls = () if keep.endswith("per layer") else (checkpoint.control,)
        found += [Line(method, keep) for method in (*METHODS, *controls)]
    return found


def command(checkpoint: Checkpoint, line: Line, tasks: Sequence[str], folder: Path, more: Sequence[str]) -> list[str]:
    """The call of lmms-eval for one line."""
    keep = "" if line.method == DENSE else f",keep={line.keep}"
    given = f"pretrained={checkpoint.pretrained},method={line.method}{keep}"
    where = str(folder / line.name)
    called = [sys.executable, "-m", "lmms_eval", "--model", "greedyprune", "--model_args", given]
    return [*called, "--tasks", ",".join(tasks), "--output_path", where, "--log_samples", *more]


def scores_in(folder: Path) -> dict[str, float] | None:
    """The number of every known task in a folder that lmms-eval wrote; None if it holds no results."""
    files = sorted(folder.rglob("*_results.json"))
    if not files:
        return None
    results: dict[str, Any] = json.loads(files[-1].read_text(encoding="utf-8"))["results"]
    found: dict[str, float] = {}
    for task, metric in TASKS.items():
        held = {name.partition(",")[0]: value for name, value in results.get(task, {}).items()}
        if isinstance(held.get(metric), (int, float)):
            found[task] = float(held[metric])
    return found


def rows_of(scores: Mapping[Line, Mapping[str, float]], tasks: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of the table. `relative`: the mean over tasks of score / dense score, in percent; empty without both."""
    dense = next((found for line, found in scores.items() if line.method == DENSE), {})
    rows: list[dict[str, Any]] = []
    for line, found in scores.items():
        row: dict[str, Any] = {"method": line.method, "keep": line.keep}
        row |= {task: found.get(task, "") for task in tasks}
        shares = [found[task] / dense[task] for task in tasks if task in found and dense.get(task)]
        whole = len(shares) == len([*tasks])
        row["relative"] = round(100 * sum(shares) / len(shares), 2) if shares and whole else ""
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table of Markdown."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value) or "–"


def main(given: list[str] | None = None) -> int:
    """Run every line that is not there yet, and write the table. -> exit status"""
    parser = argparse.ArgumentParser(description="A paper-style table of one checkpoint by lmms-eval.")
    parser.add_argument("model", choices=tuple(CHECKPOINTS))
    parser.add_argument("--pretrained", help="another folder or id of that family")
    parser.add_argument("--tasks", default=",".join(TASKS), help="names of TASKS, with commas between them")
    parser.add_argument("--out", type=Path, default=Path("table"))
    parser.add_argument("--limit", help="questions of each task, for a first look")
    parser.add_argument("--batch_size", default="1")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    options = parser.parse_args(given)
    tasks = options.tasks.split(",")
    for task in tasks:
        if task not in TASKS:
            parser.error(f"--tasks: {task!r} is unknown, known are {', '.join(TASKS)}.")
    if not options.dry_run and find_spec("lmms_eval") is None:
        raise ImportError("the table is made by lmms-eval, which is not installed: pip install lmms-eval")
    known = CHECKPOINTS[options.model]
    checkpoint = Checkpoint(options.pretrained or known.pretrained, known.budgets, known.control)
    more = ["--batch_size", options.batch_size, *(["--limit", options.limit] if options.limit else [])]
    scores: dict[Line, Mapping[str, float]] = {}
    failed: list[Line] = []
    for line in lines_of(checkpoint):
        found = scores_in(options.out / line.name)
        if found is None or any(task not in found for task in tasks):
            called = command(checkpoint, line, tasks, options.out, more)
            sys.stdout.write(shlex.join(called) + "\n")
            sys.stdout.flush()
            if options.dry_run:
                continue
            if subprocess.run(called, check=False).returncode:
                failed.append(line)
            found = scores_in(options.out / line.name)
        scores[line] = found or {}
    if scores:
        rows = rows_of(scores, tasks)
        options.out.mkdir(parents=True, exist_ok=True)
        write_csv(options.out / "table.csv", rows, list(rows[0]))
        write_text(options.out / "table.md", markdown(rows) + "\n")
        sys.stdout.write(markdown(rows) + "\n")
    for line in failed:
        sys.stderr.write(f"{line.name} failed: run the same command again for what is missing.\n")
    return int(bool(failed))


if __name__ == "__main__":
    by_hand(main, "all")
