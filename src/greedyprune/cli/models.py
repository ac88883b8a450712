"""`greedyprune models`: print which families can be pruned where, as a table, as JSON or as markdown."""

from __future__ import annotations

from typing import Annotated

import typer

from greedyprune.cli._errors import misuse
from greedyprune.cli._show import console, print_json, table


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the support matrix as markdown.")] = False,
    only_matrix: Annotated[bool, typer.Option("--matrix", help="Print the support matrix alone.")] = False,
) -> None:
    """List the model families that can be pruned and where, and those that cannot, with the reason."""
    from greedyprune.models.support import cells, markdown, support
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
        "A family is a model's config.model_type. Attention: the implementations that its proofs run on. "
        "Downscale: yes if smaller images have fewer tokens.",
        style="dim",
    )
