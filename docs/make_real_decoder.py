"""Write the tables of `docs/real-decoder.md` and of the README, from `results/eval/gemma-dev.csv` and `gemma-test.csv`.

python docs/make_real_decoder.py
"""

from __future__ import annotations

import json
from typing import Any

from pages import README, RESULTS, ROOT, Row, mean, models, of, percent, rewrite, short

from greedyprune.outputs import read_csv

PAGE = ROOT / "docs" / "real-decoder.md"
MARKS = "rules"
PLACE, BUDGETS = "layer:2", ("1/4", "1/9", "1/18")
"""The cut and the budgets of the README's table."""
SPLITS = {"test": RESULTS / "eval" / "gemma-test.csv", "dev": RESULTS / "eval" / "gemma-dev.csv"}
"""The test split first: what was chosen on the dev split is confirmed there."""


def main() -> None:
    """Rewrite what stands between the markers of both pages."""
    rewrite(PAGE, MARKS, tables())
    rewrite(README, MARKS, summary())
    rewrite(README, "claim", claim())


def summary() -> str:
    """The test split at one place, and pooling at its own: the best mean first, a dash where nothing was measured."""
    rows = of(read_csv(SPLITS["test"]), task="mean")
    known = models(rows)
    here = [row for row in rows if row["stage"] == PLACE or row["method"] == "pool"]
    cut = [row for row in here if not row["options"] or row["method"] == "mmr"]  # MMR by the default's cue, too
    columns = [(model, budget) for model in known for budget in BUDGETS]
    dense = {row["model"]: percent(row["accuracy"]) for row in of(rows, method="dense")}
    found: list[tuple[float, str]] = []
    for method, options in dict.fromkeys((row["method"], row["options"]) for row in cut):
        some = of(cut, method=method, options=options)
        each = [of(some, model=model, budget=budget) for model, budget in columns]
        told = [mean(one, "accuracy") for one in each if one]
        cells = " | ".join(percent(mean(one, "accuracy")) if one else "–" for one in each)
        found.append((sum(told) / len(told), f"| {label(method, options)} | {cells} |"))
    head = " | ".join(f"`{short(model)}` {budget}" for model, budget in columns)
    whole = " | ".join(dense[model] for model, _ in columns)
    top = [f"| method | {head} |", "|---|" + "---|" * len(columns), f"| all tokens | {whole} |"]
    return "\n".join(top + [line for _, line in sorted(found, key=lambda one: -one[0])])


def claim() -> str:
    """What the default answers at 1/9, beside all tokens and random choice: the row of the README's first lines."""
    rows = of(read_csv(SPLITS["test"]), task="mean")
    cut = of(rows, stage=PLACE, budget="1/9", options="")
    sides = {
        name: [percent(mean(of(some, method=method, model=model), "accuracy")) for model in models(rows)]
        for name, some, method in (
            ("all", rows, "dense"),
            ("default", cut, "soft_greedyprune"),
            ("random", cut, "random"),
        )
    }
    told = {name: " and ".join(each) for name, each in sides.items()}
    return (
        "**With 16 of 144 visual tokens, two models with a real language model as their decoder answer "
        f"{told['default']}** of\n252 questions about generated scenes. With all tokens they answer {told['all']}, "
        f"with 16 random ones\n{told['random']} "
        "(the rows `soft_greedyprune`, `all tokens` and `random` [below](#accuracy-at-a-budget), 1/9)."
    )


def tables() -> str:
    """For every split and model one table per place of the cut. Those of the dev split are folded."""
    parts = list[str]()
    for split, path in SPLITS.items():
        rows = read_csv(path)
        for model in models(rows):
            title, *told = _model(model, split, of(rows, model=model))
            fold = ["<details><summary>The tables</summary>", *told, "</details>"] if split == "dev" else told
            parts += [title, *fold]
    return "\n\n".join(parts)


def _model(model: str, split: str, rows: list[Row]) -> list[str]:
    """What all tokens answer, then the table of every place and every kind of budget."""
    cut = [row for row in of(rows, task="mean") if row["method"] != "dense"]
    parts = [f"### `{short(model)}`, {split} split", _dense(rows)]
    for place in dict.fromkeys(row["stage"] for row in cut):
        here = of(cut, stage=place)
        for averaged in (False, True):
            some = [row for row in here if row["budget"].endswith(" per layer") == averaged]
            if some:
                parts += [_title(place, some, averaged), _table(some)]
    return parts


def _dense(rows: list[Row]) -> str:
    """A sentence about the model that sees all tokens."""
    dense = {row["task"]: row for row in of(rows, method="dense")}
    tasks = ", ".join(f"{task} {percent(row['accuracy'])}" for task, row in dense.items() if task != "mean")
    return f"All {float(dense['mean']['tokens']):.0f} tokens answer {percent(dense['mean']['accuracy'])}: {tasks}."


def _title(place: str, rows: list[Row], averaged: bool) -> str:
    count = max(int(row["n"]) for row in rows)
    equal = "equal averages over the layers" if averaged else "equal counts"
    return f"**Cut at `{place}`**, {equal}, {count} questions for every cell:"


def _table(rows: list[Row]) -> str:
    """Accuracy, and the 95 % interval of its difference to random choice in points.

    The best mean comes first; a method that was run at some of the budgets has none and comes last.
    """
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    lines = ["| method | " + " | ".join(budgets) + " | mean |", "|---|" + "---|" * (len(budgets) + 1)]
    found: list[tuple[float, str]] = []
    for method, options in dict.fromkeys((row["method"], row["options"]) for row in rows):
        some = of(rows, method=method, options=options)
        each = [of(some, budget=budget) for budget in budgets]
        level = sum(mean(one, "accuracy") for one in each) / len(each) if all(each) else -1.0
        cells = " | ".join(_cell(one) if one else "–" for one in each)
        found.append((level, f"| {label(method, options)} | {cells} | {percent(level) if all(each) else '–'} |"))
    return "\n".join(lines + [line for _, line in sorted(found, key=lambda one: -one[0])])


def label(method: str, options: str) -> str:
    """A method and its options in one line: `greedyprune` tau quantile 0.95, preprocess center."""
    given = json.loads(options) if options else {}
    told = ", ".join(f"{name} {_value(value)}" for name, value in given.items())
    return f"`{method}` {told}".strip()


def _value(value: Any) -> str:
    """The value of an option; of one with parts, its type and then the others."""
    if not isinstance(value, dict):
        return str(value)
    return " ".join(str(value[name]) for name in sorted(value, key=lambda name: name != "type"))


def _cell(rows: list[Row]) -> str:
    """Seeds averaged."""
    told = percent(mean(rows, "accuracy"))
    if not rows[0]["random_low"]:
        return told
    low, high = (100 * mean(rows, name) for name in ("random_low", "random_high"))
    return f"{told} ({low:+.0f} to {high:+.0f})"


if __name__ == "__main__":
    main()
