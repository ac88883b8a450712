"""`greedyprune methods`: the methods by their kind, and the card of one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli._errors import misuse
from greedyprune.cli._show import console, print_card, print_json, table

if TYPE_CHECKING:
    from greedyprune.models.cards import Card

EXAMPLES = "Examples: greedyprune methods · greedyprune methods greedyprune · greedyprune methods --json"


def methods(
    name: Annotated[str | None, typer.Argument(help="Print the card of this method, with its options.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
    as_matrix: Annotated[bool, typer.Option("--matrix", help="Print which method runs on which model family.")] = False,
) -> None:
    """List the pruning methods by what they look at, or print all there is to know of one."""
    from greedyprune.registry import METHODS

    if as_matrix:
        if name is not None:
            raise misuse(f"--matrix is about all methods: leave {name!r} out.")
        _print_matrix(as_json)
        return
    cards = [_card(each) for each in (METHODS if name is None else [name])]
    if as_json:
        print_json([_plain(card) for card in cards] if name is None else _plain(cards[0]))
    elif name is None:
        _print_list(cards)
    else:
        _print_card(cards[0])


def _card(name: str) -> Card:
    from greedyprune.models.cards import card_of

    try:
        return card_of(name)
    except ValueError as error:
        raise misuse(error) from error


def _print_list(cards: list[Card]) -> None:
    """A line for each method, kind by kind."""
    from greedyprune.models.cards import KINDS
    from greedyprune.registry import DEFAULT, METHODS, method_homes

    out, width = console(), max(len(card.name) for card in cards)
    for kind in KINDS:
        out.print(f"{kind}:", style="bold")
        for card in sorted((card for card in cards if card.kind == kind), key=lambda card: card.name != DEFAULT):
            start = "(start here) " if card.name == DEFAULT else ""
            out.print(f"  {card.name:<{width}}  {start}{card.summary}", soft_wrap=True)
    others = {name: home for name, home in method_homes().items() if name not in METHODS}
    if others:
        out.print("of other packages, and your own:", style="bold")
    for name, home in others.items():
        out.print(f"  {name:<{width}}  {home}", soft_wrap=True)
    out.print("greedyprune methods NAME prints the card of one. Use it by its name: --method NAME.", style="dim")


def _print_card(card: Card) -> None:
    """The docstring, the facts, the options, and how the command line takes them."""
    from greedyprune.plain import to_plain
    from greedyprune.registry import DEFAULT

    out = console()
    out.print(f"{card.title} ({card.name}): {card.kind}{'; start here' * (card.name == DEFAULT)}", style="bold")
    out.print(f"\n{card.idea}\n")
    plain = to_plain(card.method)
    options = [
        (option.name, " ".join(filter(None, (f"{json.dumps(plain[option.name])}.", option.note))))
        for option in card.options
    ]
    print_card(
        [
            ("cut", f"{card.method.at}; it runs at {', '.join(stage.lower() for stage in card.stages)}"),
            ("needs", ", ".join(card.needs) or "nothing but the tokens"),
            ("keeps", card.keeps),
            ("cost", card.cost),
            ("differs", card.differs),
            ("families", card.families),
        ]
    )
    out.print("Options and their defaults:" if options else "It has no options.", style="bold")
    print_card(options)
    chosen = {"type": card.name, **{name: plain[name] for name, _ in options[:1]}}
    with_options = f", or with options --method '{json.dumps(chosen)}'" if options else ""
    out.print(f"--method {card.name}{with_options}", soft_wrap=True)


def _print_matrix(as_json: bool) -> None:
    from greedyprune.models.support import NOTES, families_of, matrix

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
    for how, meaning in NOTES.items():
        out.print(f"({how}): {meaning}.", style="dim")
    out.print("greedyprune models --matrix says what methods can read of a family, and why not.", style="dim")


def _plain(card: Card) -> dict[str, Any]:
    """A card as plain values."""
    from greedyprune.plain import to_plain

    return {
        "name": card.name,
        "class": card.title,
        "kind": card.kind,
        "summary": card.summary,
        "at": str(card.method.at),
        "stages": [stage.lower() for stage in card.stages],
        "needs": [type(need).__name__.lower() for need in card.method.needs],
        "exact": card.method.exact,
        "plain": to_plain(card.method),
        "options": {option.name: str(option.value) for option in card.options},
    }
