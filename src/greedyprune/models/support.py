"""The support matrices: families by stage, and methods by family. They come from the table and the registry.

from greedyprune.models.support import matrix

print(matrix()["fastv"]["llava"])  # "yes"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greedyprune.cues import Grid
from greedyprune.method import Method
from greedyprune.models.table import FAMILIES
from greedyprune.naming import method_class
from greedyprune.registry import METHODS

if TYPE_CHECKING:
    from greedyprune.models._family import Family

ATTENTION = ("sdpa", "eager")
"""The attention implementations under which the family proofs run, for every family and stage of the table."""


NOTES = {
    "one tile": "the method needs the grid of an image, and an image of several tiles has none",
    "later": "the method reads a decoder whose first layers have no attention: cut behind the first that has",
}
"""What the entries of the matrix mean that are neither "yes" nor "no"."""


def matrix() -> dict[str, dict[str, str]]:
    """Say for each method and family if the method runs there. -> {method: {family: "yes", "no", ...}}

    "one tile": the method needs the grid of an image, and an image of several tiles has no grid. "later": it reads
    attention, keys or values of a decoder whose first layers have none, so a cut has to come behind the first that has.
    """
    return {name: able(method_class(name)()) for name in METHODS}


def able(method: Method) -> dict[str, str]:
    """Say for each family if a method runs there, as one row of `matrix`. -> {family: "yes", "no", ...}

    able(gp.FastV())
    """
    return {name: _runs(method, family) for name, family in FAMILIES.items()}


def why_not(method: Method) -> dict[str, str]:
    """Say for each family that a method does not run on why not. -> {family: reason}

    why_not(gp.FastV())  # {}
    """
    reasons = {name: [*filter(None, map(family.lacks, method.needs))] for name, family in FAMILIES.items()}
    return {name: each[0] for name, each in reasons.items() if each}


def _runs(method: Method, family: Family) -> str:
    if any(map(family.lacks, method.needs)):
        return "no"
    if any(map(family.gives_later, method.needs)):
        return "later"
    return family.grid if any(isinstance(need, Grid) for need in method.needs) else "yes"


def families_of(able: dict[str, str]) -> str:
    """Say one row of the matrix in words: the families that run, or "all but ..." if that is shorter.

    families_of(matrix()["cls"])
    """
    runs = [family + (f" ({how})" if how in NOTES else "") for family, how in able.items() if how != "no"]
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
            "decoder": "later" if family.late else "yes",
            "tower": _of_tower(family),
            "downscale": not family.cannot_downscale,
            "note": family.note,
        }
        for name, family in FAMILIES.items()
    ]


def _of_tower(family: Family) -> str:
    """What methods can read in a family's vision tower, in words."""
    if family.tower is None:
        return f"no: {family.why_unread}"
    return "yes" if family.tower.class_token is None else "yes, class token"


def cells() -> list[list[str]]:
    """Return the support matrix as rows of text. The first row is the head. Every stage of any family is a column."""
    rows = support()
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))
    return [
        [
            "family",
            "reads",
            *(f"at {stage.capitalize()}" for stage in stages),
            "attention",
            "decoder cues",
            "tower cues",
            "downscale",
            "note",
        ],
        *(
            [
                row["family"],
                ", ".join(row["reads"]),
                *("yes" if stage in row["stages"] else "no" for stage in stages),
                ", ".join(row["attention"]),
                row["decoder"],
                row["tower"],
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
