"""Write the tables of `docs/accuracy.md`, and the pictures, from `testbed.csv`, `all.csv` and `all-gemma.csv`.

python docs/make_accuracy.py
"""

from __future__ import annotations

from pages import RESULTS, ROOT, Row, mean, models, of, percent, rewrite, short

from greedyprune.outputs import read_csv

ROWS = RESULTS / "eval" / "testbed.csv"
PAGE = ROOT / "docs" / "accuracy.md"
EVERY = {"every": RESULTS / "eval" / "all.csv", "every-real": RESULTS / "eval" / "all-gemma.csv"}
"""The files with every method, by the markers of their tables: the bundled models, and one with a real decoder."""
MARKS = "accuracy"


def main() -> None:
    """Rewrite what stands between the markers of the page, and the pictures."""
    from greedyprune.plots.charts import frontier

    rows = read_csv(ROWS)
    rewrite(PAGE, MARKS, table(rows))
    for marks, path in EVERY.items():
        rewrite(PAGE, marks, every(read_csv(path)))
    for model in models(rows):
        figure = frontier(of(rows, model=model), f"testbed model {model!r}, ten tasks")
        figure.savefig(ROOT / "docs" / f"accuracy-{model}.png", dpi=120, bbox_inches="tight")


def table(rows: list[Row]) -> str:
    """One table per model: mean accuracy over the tasks, and the 95 % interval of the difference to all tokens."""
    return "\n\n".join(_table(model, of(rows, model=model)) for model in models(rows))


def every(rows: list[Row]) -> str:
    """One table: the mean accuracy of each method over the tasks, for each model at each budget, best first."""
    means = of(rows, task="mean")
    budgets = list(dict.fromkeys(row["budget"] for row in means if row["method"] != "dense"))
    cells = [(model, budget) for budget in budgets for model in models(rows)]
    lines = ["| method | cut | " + " | ".join(f"`{short(model)}` {budget}" for model, budget in cells) + " |"]
    lines.append("|---|---|" + "---|" * len(cells))
    found: list[tuple[float, str]] = []
    for method, options, stage in dict.fromkeys((row["method"], row["options"], row["stage"]) for row in means):
        some = of(means, method=method, options=options, stage=stage)
        shares = [of(some, model=model, budget="all" if method == "dense" else budget) for model, budget in cells]
        told = ["–" if not each else percent(mean(each, "accuracy")) for each in shares]
        first = [mean(each, "accuracy") for each in shares[: len(models(rows))] if each]
        name = "all tokens" if method == "dense" else f"`{f'{method} {options}'.strip()}`"
        found.append((sum(first) / max(len(first), 1), f"| {name} | {stage} | " + " | ".join(told) + " |"))
    return "\n".join(lines + [line for _, line in sorted(found, key=lambda one: -one[0])])


def _table(model: str, rows: list[Row]) -> str:
    means = of(rows, task="mean")
    dense = next(row for row in means if row["method"] == "dense")
    budgets = list(dict.fromkeys(row["budget"] for row in means if row["method"] != "dense"))
    lines = [
        f"`{model}`: all {float(dense['tokens']):.0f} tokens answer {percent(dense['accuracy'])} of "
        f"{dense['n']} questions right.",
        "",
        "| method | cut | " + " | ".join(f"{budget} kept" for budget in budgets) + " |",
        "|---|---|" + "---|" * len(budgets),
    ]
    names = dict.fromkeys((row["method"], row["options"], row["stage"]) for row in means if row["method"] != "dense")
    for method, options, stage in names:
        some = of(means, method=method, options=options, stage=stage)
        cells = [_cell(of(some, budget=budget)) for budget in budgets]
        lines.append(f"| {f'{method} {options}'.strip()} | {stage} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: list[Row]) -> str:
    """Seeds averaged; how far below all tokens, at best and at worst."""
    if not rows:
        return ""
    accuracy, low, high = (mean(rows, name) for name in ("accuracy", "dense_low", "dense_high"))
    return f"{percent(accuracy)} ({100 * low:+.1f} to {100 * high:+.1f})"


if __name__ == "__main__":
    main()
