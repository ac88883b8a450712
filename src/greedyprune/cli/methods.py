"""`greedyprune methods`: the registry, printed."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Annotated, Any

import typer

from greedyprune.cli._show import console, print_json, table


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
    as_matrix: Annotated[bool, typer.Option("--matrix", help="Print which method runs on which model family.")] = False,
) -> None:
    """List the pruning methods: what each does, where it cuts by default and which cues it needs."""
    from greedyprune.naming import method_class
    from greedyprune.registry import METHODS

    if as_matrix:
        _print_matrix(as_json)
        return
    rows = [_describe(name, method_class(name)) for name in METHODS]
    if as_json:
        print_json(rows)
        return
    shown = table("method", "what it does", "cuts at", "needs", "exact")
    for row in rows:
        needs = ", ".join(row["needs"]) or "-"
        shown.add_row(row["name"], row["summary"], row["at"], needs, "yes" if row["exact"] else "no")
    shown.columns[0].style = "bold"
    shown.columns[0].no_wrap = True
    shown.columns[2].no_wrap = True
    out = console()
    out.print(shown)
    out.print(
        "exact: the method keeps exactly as many tokens as asked for. Use one by name: --method NAME.", style="dim"
    )


def _print_matrix(as_json: bool) -> None:
    from greedyprune.models.support import families_of, matrix

    found = matrix()
    if as_json:
        print_json(found)
        return
    shown = table("method", "of", "runs on")
    for name, able in found.items():
        runs = [family for family, how in able.items() if how != "no"]
        shown.add_row(name, f"{len(runs)}/{len(able)}", families_of(able))
    shown.columns[0].style = "bold"
    shown.columns[0].no_wrap = True
    out = console()
    out.print(shown)
    out.print("(one tile): the method needs the grid of an image, and an image of several tiles has none.", style="dim")


def _describe(name: str, cls: Any) -> dict[str, Any]:
    """A method as plain values, read off its class."""
    from greedyprune.plain import to_plain

    method = cls()
    summary = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
    return {
        "name": name,
        "class": cls.__name__,
        "summary": summary,
        "at": str(method.at),
        "stages": [stage.__name__.lower() for stage in method.stages],
        "needs": [type(need).__name__.lower() for need in method.needs],
        "exact": method.exact,
        "plain": to_plain(method),
        "options": {field.name: str(getattr(method, field.name)) for field in fields(method) if field.name != "at"},
    }
