"""`greedyprune models`: the table of families, printed, with those that cannot be pruned and why."""

from __future__ import annotations

from typing import Annotated

import typer

from greedyprune.cli._show import console, print_json, table


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """List the model families that can be pruned, and those that cannot, with the reason."""
    from greedyprune.models.table import FAMILIES, IMPOSSIBLE

    rows = [
        {"family": name, "stages": [stage.__name__.lower() for stage in family.stages], "note": family.note}
        for name, family in FAMILIES.items()
    ]
    if as_json:
        refused = [{"family": name, "reason": reason} for name, reason in IMPOSSIBLE.items()]
        print_json({"families": rows, "impossible": refused})
        return
    shown = table("family", "cuts at", "note")
    for row in rows:
        shown.add_row(row["family"], ", ".join(row["stages"]), row["note"])
    refusal = table("cannot be pruned", "because")
    for name, reason in IMPOSSIBLE.items():
        refusal.add_row(name, reason)
    for each in (shown, refusal):
        each.columns[0].style = "bold"
        each.columns[0].no_wrap = True
    out = console()
    out.print(shown, refusal)
    out.print("A family is a model's config.model_type.", style="dim")
