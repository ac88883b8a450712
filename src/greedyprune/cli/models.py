"""`greedyprune models`: which families can be pruned where, as a table, as JSON or as the README's markdown."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from greedyprune.cli._errors import misuse
from greedyprune.cli._show import console, print_json, table

ATTENTION = ("sdpa", "eager")
"""The attention implementations under which the family proofs run, for every family and stage of the table."""


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the support matrix as markdown.")] = False,
    only_matrix: Annotated[bool, typer.Option("--matrix", help="Print the support matrix alone.")] = False,
) -> None:
    """List the model families that can be pruned and where, and those that cannot, with the reason."""
    from greedyprune.models.table import IMPOSSIBLE

    if as_json + as_markdown + only_matrix > 1:
        raise misuse("--json, --markdown and --matrix exclude each other: choose one.")
    if as_markdown:
        typer.echo(markdown())
        return
    if as_json:
        refused = [{"family": name, "reason": reason} for name, reason in IMPOSSIBLE.items()]
        print_json({"families": support(), "impossible": refused})
        return
    head, *rows = cells()
    shown = table(*head)
    for row in rows:
        shown.add_row(*row)
    if only_matrix:
        shown.columns[0].no_wrap = True
        console().print(shown)
        return
    refusal = table("cannot be pruned", "because")
    for name, reason in IMPOSSIBLE.items():
        refusal.add_row(name, reason)
    for each in (shown, refusal):
        each.columns[0].style = "bold"
        each.columns[0].no_wrap = True
    out = console()
    out.print(shown, refusal)
    out.print(
        "A family is a model's config.model_type. Attention: what its proofs run on. Downscale: whether smaller images "
        "have fewer tokens.",
        style="dim",
    )


def support() -> list[dict[str, Any]]:
    """The support matrix as plain values, one row per family, read off the table of families."""
    from greedyprune.models.table import FAMILIES

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
    """The support matrix as text, its head first: a column for every stage that any family has."""
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
    """The support matrix as the markdown table that stands in the README."""
    head, *rows = cells()
    lines = [head, ["---"] * len(head), *([f"`{row[0]}`", *row[1:]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
