"""Write the tables of `docs/cues.md` and its pictures, from `results/cues/test.csv` and `results/cues/dev.csv`.

python docs/make_cues.py
"""

from __future__ import annotations

from pages import RESULTS, ROOT, Row, models, of, rewrite, short

from greedyprune.outputs import read_csv
from greedyprune.plots.cues import ALL, OBJECTS, markdown

TEST, DEV = RESULTS / "cues" / "test.csv", RESULTS / "cues" / "dev.csv"
PAGE = ROOT / "docs" / "cues.md"
MARKS = "cues"
LOOKUPS = ("color", "shape", "where", "digit", "ocr")
"""The tasks whose answer one object carries."""


def main() -> None:
    """Rewrite what stands between the markers of the page, and the pictures."""
    from greedyprune.plots.cue_lines import cue_lines

    rewrite(PAGE, MARKS, tables())
    rows = read_csv(TEST)
    for model in models(rows):
        figure = cue_lines(of(rows, model=model), f"testbed model {short(model)!r}, by decoder layer")
        figure.savefig(ROOT / "docs" / f"cues-{short(model)}.png", dpi=110, bbox_inches="tight")


def tables() -> str:
    """For every model: the look-up tasks against objects and against all tokens, recall, and the dev split."""
    test, dev = read_csv(TEST), read_csv(DEV)
    return "\n\n".join(_model(short(model), of(test, model=model), of(dev, model=model)) for model in models(test))


def _model(model: str, test: list[Row], dev: list[Row]) -> str:
    parts = [
        f"## `{model}`, layer by layer",
        f"![AUC of every saliency by decoder layer and task, `{model}`](cues-{model}.png)",
        f"**Against the other objects**, mean of the look-up tasks, test split ({_counts(test, OBJECTS)}).",
        markdown(test, OBJECTS, LOOKUPS),
        "The same on the dev split.",
        markdown(dev, OBJECTS, LOOKUPS),
        "**Against all other visual tokens**, the same tasks, test split: what background adds.",
        markdown(test, ALL, LOOKUPS),
        "**Recall at 1/9**: the share of the answer's tokens among the most salient ninth, the same questions.",
        _recall(test),
    ]
    return "\n\n".join(parts)


def _counts(rows: list[Row], against: str) -> str:
    """How many questions each look-up task has, and the widest interval."""
    mine = [row for row in rows if row["against"] == against and row["task"] in LOOKUPS]
    counts = {row["task"]: row["n"] for row in mine}
    half = max(float(row["auc_high"]) - float(row["auc_low"]) for row in mine) / 2
    asked = ", ".join(f"{counts[task]} {task}" for task in LOOKUPS if task in counts)
    return f"{asked}; the 95 % interval of one task is at most ±{half:.2f}"


def _recall(rows: list[Row]) -> str:
    return markdown([{**row, "auc": row["recall_9"]} for row in rows], ALL, LOOKUPS)


if __name__ == "__main__":
    main()
