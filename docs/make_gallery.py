"""Draw what every method keeps of one picture at four budgets, and write `docs/gallery.md`.

python docs/make_gallery.py          # draws and writes; a minute
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from greedyprune.models.cards import KINDS, Card, card_of
from greedyprune.registry import METHODS

HERE = Path(__file__).parent
PAGE, PICTURES = HERE / "gallery.md", HERE / "gallery"
BUDGETS = ("1/2", "1/4", "1/9", "1/18")
SEED, SIDE, GAP = 5, 180, 8
"""The seed of the scene, and the side of a drawing and the gap between two in pixels."""
TASK = "color"
HEAD = """# Gallery

One picture, one question, every method: what is kept of its 144 visual tokens at {budgets}. Kept patches are in full
colour and outlined. The model is the bundled `llava`, each method is cut at its own place, and the question is
*{question}* (answer: {answer}). One picture is an illustration and no evidence: for that see [accuracy](accuracy.md).
`python docs/make_gallery.py` draws this page.

![The picture](gallery/picture.png)
"""


def main() -> None:
    """Draw all pictures and write the page."""
    import greedyprune as gp

    PICTURES.mkdir(exist_ok=True)
    model, processor = gp.testbed.load()
    image, question = scene()
    small(image.resize((2 * SIDE, 2 * SIDE))).save(PICTURES / "picture.png", optimize=True)
    inputs = processor(images=image, text=gp.testbed.prompt(processor, question), return_tensors="pt")
    for name in METHODS:
        drawn: list[Any] = []
        for budget in BUDGETS:
            with gp.prune(model, name, keep=budget) as pruned:
                model(**inputs)
            drawn.append(pruned.selections[0].show(image, size=SIDE))
        strip(drawn).save(PICTURES / f"{name}.png", optimize=True)
    PAGE.write_text(page(), encoding="utf-8", newline="\n")


def scene() -> Any:
    """The picture and the question about it."""
    import greedyprune as gp

    return gp.testbed.sample(1, seed=SEED, tasks=(TASK,))[0]


def page() -> str:
    """The whole page: methods by what they look at, in the order of the command line."""
    _, question = scene()
    cards = [card_of(name) for name in METHODS]
    parts = [HEAD.format(budgets=", ".join(BUDGETS), question=question.text, answer=question.answer)]
    for kind in KINDS:
        parts.append(f"## {kind[0].upper()}{kind[1:]}\n")
        parts += [entry(card) for card in cards if card.kind == kind]
    return "\n".join(parts)


def entry(card: Card) -> str:
    """One method: its strip, and what it does."""
    budgets = ", ".join(BUDGETS)
    return (
        f"### `{card.name}`\n\n![What {card.name} keeps at {budgets}](gallery/{card.name}.png)\n\n"
        f"{card.summary} ([card](methods.md#{anchor(card)}))\n"
    )


def anchor(card: Card) -> str:
    """The anchor of a method's card on the page of methods, as the site makes it of the heading."""
    return f"{card.title}-{card.name}".lower()


def small(picture: Any) -> Any:
    """The picture in few colours, which makes a small file."""
    return picture.quantize(128, kmeans=2)


def strip(drawn: list[Any]) -> Any:
    """All drawings in one row."""
    from PIL import Image

    sheet = Image.new("RGB", (len(drawn) * (SIDE + GAP) - GAP, SIDE), "white")
    for place, each in enumerate(drawn):
        sheet.paste(each, (place * (SIDE + GAP), 0))
    return small(sheet)


if __name__ == "__main__":
    main()
