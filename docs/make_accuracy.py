"""Write the README's accuracy table and its picture from `results/eval/testbed.csv`.

python docs/make_accuracy.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from greedyprune.outputs import read_csv

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "results" / "eval" / "testbed.csv"
MARKS = "<!-- accuracy: begin -->\n", "\n<!-- accuracy: end -->"
Row = Mapping[str, str]


def main() -> None:
    """Rewrite what stands between the markers, and the picture."""
    from greedyprune.plots.charts import frontier

    rows = read(ROWS)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    begin, end = MARKS
    made = re.sub(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", lambda _: table(rows), text, flags=re.DOTALL)
    readme.write_text(made, encoding="utf-8", newline="\n")
    for model in models(rows):
        figure = frontier([row for row in rows if row["model"] == model], f"testbed model {model!r}, ten tasks")
        figure.savefig(ROOT / "docs" / f"accuracy-{model}.png", dpi=120, bbox_inches="tight")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a results file."""
    return read_csv(path)


def models(rows: Iterable[Row]) -> list[str]:
    """The models in these rows, in their order."""
    return list(dict.fromkeys(row["model"] for row in rows))


def table(rows: list[dict[str, str]]) -> str:
    """One table per model: mean accuracy over the tasks, and the 95 % interval of the difference to all tokens."""
    return "\n\n".join(_table(model, [row for row in rows if row["model"] == model]) for model in models(rows))


def _table(model: str, rows: list[dict[str, str]]) -> str:
    means = [row for row in rows if row["task"] == "mean"]
    dense = next(row for row in means if row["method"] == "dense")
    budgets = list(dict.fromkeys(row["budget"] for row in means if row["method"] != "dense"))
    lines = [
        f"`{model}`: all {float(dense['tokens']):.0f} tokens answer {_percent(dense['accuracy'])} of "
        f"{dense['n']} questions right.",
        "",
        "| method | cut | " + " | ".join(f"{budget} kept" for budget in budgets) + " |",
        "|---|---|" + "---|" * len(budgets),
    ]
    names = dict.fromkeys((row["method"], row["options"], row["stage"]) for row in means if row["method"] != "dense")
    for method, options, stage in names:
        some = [row for row in means if (row["method"], row["options"], row["stage"]) == (method, options, stage)]
        cells = [_cell([row for row in some if row["budget"] == budget]) for budget in budgets]
        lines.append(f"| {f'{method} {options}'.strip()} | {stage} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, str]]) -> str:
    """Seeds averaged; how far below all tokens, at best and at worst."""
    if not rows:
        return ""
    accuracy, low, high = (_mean(rows, name) for name in ("accuracy", "dense_low", "dense_high"))
    return f"{_percent(accuracy)} ({100 * low:+.1f} to {100 * high:+.1f})"


def _mean(rows: list[dict[str, str]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def _percent(share: float | str) -> str:
    return f"{100 * float(share):.1f} %"


if __name__ == "__main__":
    main()
