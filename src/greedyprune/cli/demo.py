"""`greedyprune demo`: the bundled model answers questions of every kind, dense and pruned, with nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli._show import console, flops, print_json, progress, size, table, tick
from greedyprune.registry import DEFAULT

if TYPE_CHECKING:
    from PIL import Image
    from rich.text import Text

    from greedyprune.cli._answer import Answer
    from greedyprune.cli._load import Loaded
    from greedyprune.testbed import Item, Question

EXAMPLES = """Examples:

  greedyprune demo

  greedyprune demo --seed 7 --save my-pictures

  greedyprune demo --json > demo.json"""

SHARES = {"1/4": 1 / 4, "1/9": 1 / 9}
TINY = (
    "This model has 5 layers and 3 million parameters. On it pruning saves FLOPs and memory but no time, since "
    "choosing tokens takes about as long as the 3 layers behind the cut."
)


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture, a question about it, and the answers by share: "dense", "1/4", "1/9"."""

    image: Image.Image
    question: Question
    answers: dict[str, Answer]

    def right(self, share: str) -> bool:
        """True if the answer of this name is right."""
        from greedyprune.testbed import correct

        return correct(self.question, self.answers[share].text)


def demo(
    save: Annotated[Path, typer.Option("--save", metavar="DIR", help="Folder of the pictures.")] = Path("demo-output"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other scenes.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Answer one question of every kind with all, 1/4 and 1/9 of the visual tokens; draw what was kept."""
    from greedyprune import testbed
    from greedyprune.cli._load import load
    from greedyprune.cli._outputs import make_folder, written

    _ = testbed.sample  # an extra that is not installed is told before anything is done
    make_folder("--save", save)
    with progress("loading the model") as say:
        loaded = load(None)
        say("drawing scenes")
        items = _items(seed)
    with progress("answering", total=len(items)) as say:
        pairs: list[Pair] = []
        for item in items:
            say(item.question.text)
            pairs.append(_answered(loaded, item))
            say(done=len(pairs))
    files: list[Path] = []
    problem = written("--save", save, lambda folder: files.extend(_draw(pairs, folder)))
    if as_json:
        print_json(_document(pairs, files, seed))
    else:
        _print(pairs, files)
    if problem is not None:
        raise problem


def _items(seed: int) -> list[Item]:
    """One question of every kind, each about another picture."""
    from greedyprune.testbed import KINDS, Item, scenes

    found: dict[str, Item] = {}
    for scene in scenes("test", seed):
        wanted = next((question for question in scene.questions if question.kind not in found), None)
        if wanted is not None:
            found[wanted.kind] = Item(scene.image, wanted)
        if len(found) == len(KINDS):
            break
    return [found[kind] for kind in KINDS]


def _answered(loaded: Loaded, item: Item) -> Pair:
    from greedyprune import Layer, Ratio
    from greedyprune.cli._answer import Pruning, answer, prompt

    inputs = prompt(loaded, [item.image], item.question.text)
    answers = {"dense": answer(loaded, inputs, None, 8)}
    for name, share in SHARES.items():
        answers[name] = answer(loaded, inputs, Pruning(DEFAULT, Ratio(share), Layer(2)), 8)
    return Pair(item.image, item.question, answers)


def _draw(pairs: list[Pair], folder: Path) -> list[Path]:
    """One picture per pair, and a contact sheet at the end. -> the files"""
    from PIL.Image import Resampling

    from greedyprune.outputs import replacing
    from greedyprune.plots import overlay, side_by_side

    files: list[Path] = []
    small: list[Image.Image] = []
    for number, pair in enumerate(pairs, start=1):
        drawn = [overlay(pair.image, pair.answers[name].selections[0], order=True) for name in SHARES]
        captions = [_caption(pair, name) for name in pair.answers]
        whole = pair.image.resize(drawn[0].size, Resampling.LANCZOS)
        title = f"{pair.question.text}\nright answer: {pair.question.answer}"
        files.append(folder / f"{number:02d}-{pair.question.kind}.png")
        with replacing(files[-1]) as fresh:
            side_by_side([whole, *drawn], captions, width=504, title=title).save(fresh)
        small.append(_beside(whole, overlay(pair.image, pair.answers["1/9"].selections[0])))
    captions = [
        "\n".join(
            [pair.question.text, f"right answer: {pair.question.answer}", *(_caption(pair, n) for n in pair.answers)]
        )
        for pair in pairs
    ]
    files.append(folder / "contact-sheet.png")
    title = "The picture, and beside it in full colour the 1/9 of its patches that SoftGreedyPrune keeps behind layer 2"
    with replacing(files[-1]) as fresh:
        side_by_side(small, captions, columns=3, width=640, title=title).save(fresh)
    return files


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures of one size as one."""
    from PIL import Image

    both = Image.new("RGB", (2 * left.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


def _caption(pair: Pair, name: str) -> str:
    found = pair.answers[name]
    return f"{'✓' if pair.right(name) else '✗'} {found.kept} of {found.tokens} tokens: {found.text}"


def _totals(pairs: list[Pair]) -> dict[str, dict[str, Any]]:
    """Per share: how many answers are right, and the median price."""
    return {
        name: {
            "right": sum(pair.right(name) for pair in pairs),
            "of": len(pairs),
            "kept": int(median(pair.answers[name].kept for pair in pairs)),
            "visual_tokens": pairs[0].answers[name].tokens,
            "first_token_ms": round(median(pair.answers[name].first_ms for pair in pairs), 3),
            "select_ms": round(median(pair.answers[name].select_ms for pair in pairs), 3),
            "cache_bytes": int(median(pair.answers[name].cache_bytes for pair in pairs)),
            "prompt_flops": int(median(pair.answers[name].flops for pair in pairs)),
        }
        for name in pairs[0].answers
    }


def _document(pairs: list[Pair], files: list[Path], seed: int) -> dict[str, Any]:
    """Everything that is printed, as plain values."""
    rows = [
        {
            "kind": pair.question.kind,
            "question": pair.question.text,
            "right_answer": pair.question.answer,
            "answers": {
                name: {**found.to_dict(selections=False), "right": pair.right(name)}
                for name, found in pair.answers.items()
            },
            "overlay": str(file) if file else None,
        }
        for pair, file in zip_longest(pairs, files[: len(pairs)])
    ]
    about = {"model": "bundled", "split": "test", "seed": seed, "method": DEFAULT, "note": TINY}
    return {**about, "pairs": rows, "summary": _totals(pairs), "contact_sheet": str(files[-1]) if files else None}


def _print(pairs: list[Pair], files: list[Path]) -> None:
    """Two tables, pair by pair and in all, and where the pictures are."""
    totals = _totals(pairs)
    heads = {n: f"all {t['kept']}" if n == "dense" else f"{t['kept']} kept ({n})" for n, t in totals.items()}
    shown = table("question", "right answer", *heads.values())
    for pair in pairs:
        shown.add_row(
            pair.question.text, pair.question.answer, *(_cell(pair, name) for name in totals), end_section=True
        )
    out = console()
    out.print("SoftGreedyPrune, cut before decoder layer 2: the answer, the FLOPs of the prompt, the KV cache")
    out.print(shown)
    summary = table("in all", "right answers", "visual tokens", "prompt FLOPs", "KV cache")
    for column in summary.columns[1:]:
        column.justify = "right"
    for name, t in totals.items():
        summary.add_row(
            heads[name],
            f"{t['right']} of {t['of']}",
            f"{t['kept']} of {t['visual_tokens']}",
            flops(t["prompt_flops"]),
            size(t["cache_bytes"]),
        )
    out.print(summary)
    out.print(TINY, style="dim")
    if files:
        out.print(f"\npictures: {len(files) - 1} pairs and {files[-1]}", style="bold", soft_wrap=True)


def _cell(pair: Pair, name: str) -> Text:
    """One answer, right or wrong, and under it the price."""
    from rich.text import Text

    found = pair.answers[name]
    price = f"{flops(found.flops)}, {size(found.cache_bytes)}"
    return Text.assemble(found.text, " ", tick(pair.right(name)), "\n", (price, "dim"))
