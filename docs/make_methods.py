"""Write `docs/methods.md`, a card for every registered method, from the registry, its docstrings and published numbers.

python docs/make_methods.py
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from greedyprune.models.cards import Card, card_of
from greedyprune.naming import method_class
from greedyprune.registry import METHODS

HERE = Path(__file__).parent
PAGE = HERE / "methods.md"
RELEASED = HERE.parent / "tests" / "tools" / "released.json"
HEAD = """# Methods

Every registered method, from its own docstring. `greedyprune methods` lists them, `greedyprune methods NAME` prints the
card of one with its options, `gp.prune(model, NAME, keep)` runs it. `n` visual tokens, `k` kept, `m` text tokens, `d`
width. Numbers under *published* are relative accuracy on LLaVA-1.5-7B in per cent of the unpruned model at 192, 128 and
64 visual tokens, from the table named, since protocols differ by points between papers; none of them was measured here.
`python docs/make_methods.py` makes this page.

## Held to released code

{count} methods are held to what their authors' code keeps: {names}. That code ran outside this project, at the commit
that the card names under *held to*, on cues drawn from a seed. `tests/tools/released.json` holds the indices alone, of
{selections} selections, and says how the cues are drawn again. *Equal* means the same tokens, and the same order if the
source has one. Where a paper and its code differ, an option gives each, and *differs* says which one is the default.
All methods are held to their equations, in plain float64 loops that share no code with the library.
"""


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(page(), encoding="utf-8", newline="\n")


def page() -> str:
    """The whole page."""
    published = numbers()
    unknown = set(published) - set(METHODS)
    assert not unknown, f"published.csv names {sorted(unknown)}, which are not registered"
    held = sources()
    cards = [shown(card_of(name), published.get(name), held.get(name)) for name in METHODS]
    names = ", ".join(method_class(name).__name__ for name in METHODS if name in held)
    head = HEAD.format(count=len(held), names=names, selections=sum(len(each["selections"]) for each in held.values()))
    return head + "".join("\n" + each for each in cards)


def sources() -> dict[str, dict[str, Any]]:
    """The released code that each method is held to."""
    return json.loads(RELEASED.read_text(encoding="utf-8"))["methods"]


def numbers() -> dict[str, str]:
    """What papers report for each method, with the table of origin."""
    with (HERE / "published.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        row["method"]: " / ".join(row[budget] or "-" for budget in ("192", "128", "64")) + f" ({row['origin']})"
        for row in rows
    }


def held_to(source: dict[str, Any] | None) -> str:
    """The released code of a method, and how ours stands to what it keeps."""
    if source is None:
        return "its equations alone."
    selections, link = source["selections"], f"https://github.com/{source['repository']}"
    many = sum(len(each.get("order", each.get("rows", ()))) for each in selections)
    equal = "equal, order included" if "order" in selections[0] else "equal"
    found: list[str] = []
    for each in source["compared"]:
        options = ", ".join(f"`{name}={value!r}`" for name, value in each["options"].items())
        what = equal
        if "shared" in each:
            what = f"{sum(each['shared'])} of {many} tokens are the same, since {each['differs']}"
        found.append(f"with {options} {what}" if options else what)
    note, fewer = (f" ({source[name]})" if name in source else "" for name in ("note", "fewer"))
    where = f"[{source['repository']}]({link}) at `{source['commit'][:7]}`{note}, {len(selections)} selections{fewer}"
    return f"{where}: {'; '.join(found)}."


def shown(card: Card, published: str | None, source: dict[str, Any] | None) -> str:
    """One method."""
    needs = ", ".join(f"`{need}`" for need in card.needs) or "nothing but the tokens"
    stages = ", ".join(f"`{stage}`" for stage in card.stages)
    options = [f"`{option.name}={option.value!r}`" for option in card.options]
    lines = [
        f"**Cut** at `{card.method.at!r}`, runs at {stages}.",
        f"**Needs** {needs}.",
        f"**Keeps** {card.keeps}.",
        f"**Options** {', '.join(options) or 'none'}.",
        f"**Cost** {card.cost}",
        f"**Differs** {card.differs}",
        f"**Held to** {held_to(source)}",
        f"**Families** {card.families}.",
        f"**Published** {published or 'nothing found'}.",
    ]
    return f"## {card.title} (`{card.name}`)\n\n{card.idea}\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


if __name__ == "__main__":
    main()
