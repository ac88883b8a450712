"""The support matrices: families by stage, and methods by family. They come from the table and the registry.

from greedyprune.models.support import matrix

print(matrix()["fastv"]["llava"])  # "yes"
"""

from __future__ import annotations

from typing import Any

from greedyprune.cues import Grid
from greedyprune.method import Method
from greedyprune.models.table import FAMILIES
from greedyprune.naming import method_class
from greedyprune.registry import METHODS

ATTENTION = ("sdpa", "eager")
"""The attention implementations under which the family proofs run, for every family and stage of the table."""


def matrix() -> dict[str, dict[str, str]]:
    """Say for each method and family if the method runs there. -> {method: {family: "yes", "no" or "one tile"}}

    "one tile": the method needs the grid of an image, and an image of several tiles has no grid.
    """
    return {name: able(method_class(name)()) for name in METHODS}


def able(method: Method) -> dict[str, str]:
    """Say for each family if a method runs there, as one row of `matrix`. -> {family: "yes", "no" or "one tile"}

    able(gp.FastV())
    """
    grid = any(isinstance(need, Grid) for need in method.needs)
    return {
        key: "no" if not all(map(family.gives, method.needs)) else family.grid if grid else "yes"
        for key, family in FAMILIES.items()
    }


def families_of(able: dict[str, str]) -> str:
    """Say one row of the matrix in words: the families that run, or "all but ..." if that is shorter.

    families_of(matrix()["cls"])
    """
    runs = [family + " (one tile)" * (how == "one tile") for family, how in able.items() if how != "no"]
    others = [family for family, how in able.items() if how == "no"]
    if not others:
        some = [family for family in runs if family.endswith(")")]
        return "all" + (f"; {', '.join(some)}" if some else "")
    if len(others) < len(runs) and not any(family.endswith(")") for family in runs):
        return f"all but {', '.join(others)}"
    return ", ".join(runs)


def support() -> list[dict[str, Any]]:
    """Return the support matrix of families as plain values, one row per family.

    print(support()[0]["family"], support()[0]["stages"])  # llava ["input", "layer"]
    """
    return [
        {
            "family": name,
            "reads": [medium.kind for medium in family.media],
            "stages": [stage.__name__.lower() for stage in family.stages],
            "attention": list(ATTENTION),
            "downscale": not family.cannot_downscale,
            "note": family.note,
        }
        for name, family in FAMILIES.items()
    ]


def cells() -> list[list[str]]:
    """Return the support matrix as rows of text. The first row is the head. Every stage of any family is a column."""
    rows = support()
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))
    return [
        ["family", "reads", *(f"at {stage.capitalize()}" for stage in stages), "attention", "downscale", "note"],
        *(
            [
                row["family"],
                ", ".join(row["reads"]),
                *("yes" if stage in row["stages"] else "no" for stage in stages),
                ", ".join(row["attention"]),
                "yes" if row["downscale"] else "no",
                row["note"],
            ]
            for row in rows
        ),
    ]


def markdown() -> str:
    """Return the support matrix as the markdown table of docs/families.md."""
    head, *rows = cells()
    lines = [head, ["---"] * len(head), *([f"`{row[0]}`", *row[1:]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
