"""What each saliency is worth: how well it tells the tokens that carry the answer from others, by decoder layer.

    rows = cue_rows(Engine(*greedyprune.testbed.load("llava")), Scenes(50, "dev").items())

Nothing is pruned and nothing is answered: one forward of the prompt per question.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from greedyprune.budget import Ratio, count
from greedyprune.eval.engine import Batch, Engine
from greedyprune.eval.items import Item, with_boxes
from greedyprune.eval.loop import make_batches
from greedyprune.eval.reader import CHANGE, SALIENCIES, Found, saliencies
from greedyprune.eval.stats import Bootstrap, auc, interval, recall
from greedyprune.selection import PruneWarning
from greedyprune.stages import Input, Layer

OBJECTS, ALL = "objects", "all"
"""What the answer's tokens are told from: tokens of the other things of their sort, or all other visual tokens."""
SHARES = (2, 4, 9, 18)
"""Recall is counted among the most salient 1/2, 1/4, 1/9 and 1/18 of the visual tokens."""
NO_BOXES = "no question has boxes that say where its answer is: give a folder whose lines have boxes, or the testbed."
Key = tuple[int, str]
Row = dict[str, object]


@dataclass(frozen=True, eq=False)
class Measured:
    """One question's numbers."""

    item: Item
    auc: dict[str, dict[Key, float]]
    """By `OBJECTS` and `ALL`, if there are such tokens: the AUC by layer and saliency."""
    recall: dict[Key, list[float]]
    """By layer and saliency: the recall at each of `SHARES`."""


def cue_rows(
    engine: Engine,
    items: Iterable[Item],
    per_task: int = 100,
    batch: int = 8,
    say: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Measure every saliency at every decoder layer. -> one row per task, layer, saliency and kind of other tokens

        for row in cue_rows(engine, Scenes(20, "dev", tasks=("where",)).items()):
            print(row["layer"], row["saliency"], row["against"], row["auc"])

    - `auc`: how often a token that carries the answer has a larger saliency than one of the others, ties counting
      half: 1 first, 0.5 blind, below 0.5 last. The mean over questions, with the 95 % interval of a bootstrap over
      images. `against`: "objects", the tokens of the other things of the sort that is asked about (`Item.others`), or
      "all", all other visual tokens.
    - `recall_2` to `recall_18`: the share of the answer's tokens among the most salient 1/2 to 1/18 of all visual
      tokens, for the questions of that row; ties at the edge count their share.
    - `layer`: the place of a cut, "input" or "layer:l". Cosines and change are of the states that enter layer l;
      attention, keys and values are those that layer l computes.

    Every task gives at most `per_task` questions with boxes. What a layer does not show is left out, with one warning.
    Raises ValueError if no question has boxes, or if no box covers a token, as on a model whose images lie on no grid.
    """
    chosen = with_boxes(items, per_task)
    if not chosen:
        raise ValueError(NO_BOXES)
    measured: list[Measured] = []
    done = 0
    for number, some in enumerate(make_batches(engine, chosen, batch)):
        prepared = engine.prepare(number, some)
        measured += _measure(engine, prepared)
        done += len(some)
        if say is not None:
            say(done, len(chosen))
    if not measured:
        raise ValueError(
            f"no box of {len(chosen)} questions covers a visual token: the images of this "
            f"{engine.parts.family.model_type!r} model lie on no grid, or the boxes lie outside them."
        )
    keys = _shown(measured, engine)
    return [row for against in (OBJECTS, ALL) for row in _rows(measured, against, keys)]


def _measure(engine: Engine, batch: Batch) -> list[Measured]:
    """Measure the questions of one batch whose boxes cover some, but not all, of the image's tokens."""
    others = engine.tokens_of(batch, [item.others for item in batch.items])
    found = saliencies(engine, batch)
    return [
        _measured(item, values, span.n, region, other)
        for item, values, span, region, other in zip(
            batch.items, found, batch.spans, batch.regions, others, strict=True
        )
        if 0 < region.numel() < span.n
    ]


def _measured(item: Item, found: Found, n: int, region: Tensor, others: Tensor) -> Measured:
    wanted, rivals = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    wanted[region], rivals[others] = True, True
    among = {OBJECTS: wanted | rivals, ALL: torch.ones(n, dtype=torch.bool)}
    if not bool((rivals & ~wanted).any()):
        del among[OBJECTS]
    return Measured(
        item,
        {name: {key: auc(x[some], wanted[some]) for key, x in found.items()} for name, some in among.items()},
        {key: [recall(x, wanted, count(Ratio(1 / share), n)) for share in SHARES] for key, x in found.items()},
    )


def _shown(measured: Sequence[Measured], engine: Engine) -> list[Key]:
    """The layers and saliencies that every question shows, in order. Warns of the others once."""
    depth = range(len(engine.parts.layers))
    possible = [(layer, name) for layer in depth for name in SALIENCIES if layer or name != CHANGE]
    shown = [key for key in possible if all(key in one.recall for one in measured)]
    lacking: dict[str, list[str]] = {}
    for layer, name in possible:
        if (layer, name) not in shown:
            lacking.setdefault(name, []).append(_place(layer))
    if lacking:
        each = "; ".join(f"{name} at {', '.join(places)}" for name, places in lacking.items())
        warnings.warn(
            f"left out on this {engine.parts.family.model_type!r} model, whose layers do not show it for all tokens of "
            f"every prompt: {each}.",
            PruneWarning,
            stacklevel=3,
        )
    return shown


def _rows(measured: Sequence[Measured], against: str, keys: Sequence[Key]) -> list[Row]:
    """The rows of one kind of other tokens. Means of a task weigh its questions alike."""
    some = [one for one in measured if against in one.auc]
    if not some:
        return []
    values = torch.tensor([[one.auc[against][key] for key in keys] for one in some], dtype=torch.float64)
    recalls = torch.tensor([[one.recall[key] for key in keys] for one in some], dtype=torch.float64)
    bootstrap = Bootstrap([one.item.picture for one in some])
    rows: list[Row] = []
    for task in dict.fromkeys(one.item.task for one in some):
        mine = torch.tensor([one.item.task == task for one in some])
        means, shares, draws = values[mine].mean(0), recalls[mine].mean(0), bootstrap.means(values, mine)
        for column, (layer, name) in enumerate(keys):
            low, high = interval(draws[:, column])
            rows.append(
                {
                    "task": task,
                    "layer": _place(layer),
                    "saliency": name,
                    "against": against,
                    "n": int(mine.sum()),
                    "auc": round(float(means[column]), 4),
                    "auc_low": round(low, 4),
                    "auc_high": round(high, 4),
                    **{f"recall_{share}": round(float(shares[column, at]), 4) for at, share in enumerate(SHARES)},
                }
            )
    return rows


def _place(layer: int) -> str:
    """The place of a cut before a decoder layer, as text."""
    return str(Layer(layer) if layer else Input())
