"""Write the tables of `docs/choose.md` from `results/eval/gemma-test.csv` and `results/eval/testbed.csv`.

python docs/make_choose.py
"""

from __future__ import annotations

from pages import RESULTS, ROOT, Row, mean, models, of, percent, rewrite, short

from greedyprune.outputs import read_csv

PAGE = ROOT / "docs" / "choose.md"
REAL, TESTBED = RESULTS / "eval" / "gemma-test.csv", RESULTS / "eval" / "testbed.csv"
PLACE, DEFAULT = "layer:2", "soft_greedyprune"
SMALLER = ("downscale", "pool", "grid", "random", "greedyprune", "oracle")
"""Methods that stand beside a smaller image."""


def main() -> None:
    """Rewrite what stands between the markers of the page."""
    for marks, made in tables().items():
        rewrite(PAGE, marks, made)


def tables() -> dict[str, str]:
    """Each table by the name of its markers."""
    real = read_csv(REAL)
    return {"budgets": _budgets(real), "tasks": _tasks(real), "smaller": _smaller(read_csv(TESTBED))}


def _default(rows: list[Row]) -> list[Row]:
    """The rows of the rule that runs if no method is named, cut at its place, with budgets by count."""
    return [row for row in of(rows, method=DEFAULT, options="", stage=PLACE) if "layer" not in row["budget"]]


def _budgets(rows: list[Row]) -> str:
    """What each budget of the default costs, with its interval, and what random choice would cost."""
    lines = [
        "| model | kept | right | beside all tokens (95 %) | random choice |",
        "|---|---|---|---|---|",
    ]
    for model in models(rows):
        mine = of(rows, model=model, task="mean")
        for row in _default(mine):
            chance = of(mine, method="random", stage=PLACE, budget=row["budget"])
            low, high = 100 * float(row["dense_low"]), 100 * float(row["dense_high"])
            lines.append(
                f"| `{short(model)}` | {row['budget']} | {percent(row['accuracy'])} | {low:+.1f} to {high:+.1f} points "
                f"| {percent(mean(chance, 'accuracy')) if chance else '–'} |"
            )
    return "\n".join(lines)


def _tasks(rows: list[Row]) -> str:
    """The default by kind of question, on the model that learnt more kinds."""
    model = models(rows)[0]
    mine = of(rows, model=model)
    dense = {row["task"]: row for row in of(mine, method="dense")}
    budgets = list(dict.fromkeys(row["budget"] for row in _default(mine)))
    lines = ["| kind of question | all tokens | " + " | ".join(budgets) + " |", "|---|---|" + "---|" * len(budgets)]
    for task, whole in dense.items():
        cells = [percent(mean(of(_default(mine), task=task, budget=budget), "accuracy")) for budget in budgets]
        lines.append(f"| {task} | {percent(whole['accuracy'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _smaller(rows: list[Row]) -> str:
    """A smaller image beside methods of as many tokens, on the bundled model that takes images of any size."""
    mine = of(rows, model="qwen", task="mean")
    budgets = list(dict.fromkeys(row["budget"] for row in mine if row["method"] != "dense"))
    lines = ["| `qwen` | " + " | ".join(budgets) + " |", "|---|" + "---|" * len(budgets)]
    for method in SMALLER:
        cells = [percent(mean(of(mine, method=method, budget=budget), "accuracy")) for budget in budgets]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
