"""`greedyprune models`: which families can be pruned where, as a table, as JSON or as markdown, and one in detail."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from greedyprune.cli._errors import misuse
from greedyprune.cli._show import console, print_card, print_json, table

EXAMPLES = "Examples: greedyprune models · greedyprune models qwen2_5_vl · greedyprune models --json"


def models(
    name: Annotated[str | None, typer.Argument(help="Print what is known of this family.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the support matrix as markdown.")] = False,
    only_matrix: Annotated[bool, typer.Option("--matrix", help="Print the support matrix alone.")] = False,
) -> None:
    """List the model families that can be pruned and where, and those that cannot, or print all about one."""
    from greedyprune.models.support import cells, markdown, support
    from greedyprune.models.table import IMPOSSIBLE

    if as_markdown and (as_json or only_matrix):
        raise misuse("--markdown prints the support matrix as markdown: leave --json and --matrix out.")
    if name is not None:
        if as_markdown or only_matrix:
            raise misuse(f"--markdown and --matrix are about all families: leave {name!r} out.")
        facts = _facts(name)
        print_json(facts) if as_json else print_card((key, _words(value)) for key, value in facts.items())
        return
    if as_markdown:
        typer.echo(markdown())
        return
    if as_json:
        refused = [{"family": name, "reason": reason} for name, reason in IMPOSSIBLE.items()]
        print_json(support() if only_matrix else {"families": support(), "impossible": refused})
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
        "A family is a model's config.model_type. Attention: the implementations that its proofs run on. Cues: whether "
        "methods can read its decoder's and its vision tower's attention and keys; later: behind its first attention. "
        "Downscale: yes if smaller images have fewer tokens.",
        style="dim",
    )


def _facts(name: str) -> dict[str, Any]:
    """What is known of one family. Raises misuse for an unknown one."""
    from greedyprune.models.support import matrix, support
    from greedyprune.models.table import FAMILIES, IMPOSSIBLE
    from greedyprune.registry import unknown

    if name in IMPOSSIBLE:
        return {"family": name, "cannot be pruned": IMPOSSIBLE[name]}
    if name not in FAMILIES:
        raise misuse(unknown("model family", name, [*FAMILIES, *IMPOSSIBLE]))
    facts = next(row for row in support() if row["family"] == name)
    found = {method: able[name] for method, able in matrix().items()}
    return {
        **facts,
        "methods": [method for method, how in found.items() if how == "yes"],
        "methods that need one tile": [method for method, how in found.items() if how == "one tile"],
        "methods that need a later cut": [method for method, how in found.items() if how == "later"],
        "methods that cannot run": [method for method, how in found.items() if how == "no"],
    }


def _words(value: object) -> str:
    """A fact as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "none"
