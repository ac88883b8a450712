"""Write the accuracy tables of the README and of `docs/accuracy.md`, and the pictures, from `results/eval/testbed.csv`.

python docs/make_accuracy.py
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from greedyprune.outputs import read_csv

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "results" / "eval" / "testbed.csv"
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "accuracy.md"
SHOWN = ("1/4", "1/9")
"""The budgets of the README's table."""
MARKS = "<!-- accuracy: begin -->\n", "\n<!-- accuracy: end -->"
Row = Mapping[str, str]


def main() -> None:
    """Rewrite what stands between the markers of both pages, and the pictures."""
    from greedyprune.plots.charts import frontier

    rows = read(ROWS)
    for page, made in ((README, summary(rows)), (PAGE, table(rows))):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(between(text), made), encoding="utf-8", newline="\n")
    for model in models(rows):
        figure = frontier([row for row in rows if row["model"] == model], f"testbed model {model!r}, ten tasks")
        figure.savefig(ROOT / "docs" / f"accuracy-{model}.png", dpi=120, bbox_inches="tight")


def between(text: str) -> str:
    """What stands between the markers."""
    begin, end = MARKS
    return text[text.index(begin) + len(begin) : text.index(end)]


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a results file."""
    return read_csv(path)


def models(rows: Iterable[Row]) -> list[str]:
    """The models in these rows, in their order."""
    return list(dict.fromkeys(row["model"] for row in rows))


def table(rows: list[dict[str, str]]) -> str:
    """One table per model: mean accuracy over the tasks, and the 95 % interval of the difference to all tokens."""
    return "\n\n".join(_table(model, [row for row in rows if row["model"] == model]) for model in models(rows))


def summary(rows: list[dict[str, str]]) -> str:
    """One table of all models at the budgets that the README shows: mean accuracy over the tasks."""
    means = [row for row in rows if row["task"] == "mean"]
    dense = {row["model"]: row for row in means if row["method"] == "dense"}
    columns = [(model, budget) for model in dense for budget in SHOWN]
    lines = [
        "| method | cut | " + " | ".join(f"`{model}` {budget}" for model, budget in columns) + " |",
        "|---|---|" + "---|" * len(columns),
        "| all tokens | | " + " | ".join(_percent(dense[model]["accuracy"]) for model, _ in columns) + " |",
    ]
    for method, stage in dict.fromkeys((row["method"], row["stage"]) for row in means if row["method"] != "dense"):
        cells: list[str] = []
        for column in columns:
            some = [row for row in means if (row["method"], row["stage"]) == (method, stage)]
            some = [row for row in some if (row["model"], row["budget"]) == column]
            cells.append(_percent(_mean(some, "accuracy")) if some else "")
        lines.append(f"| {method} | {stage} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
