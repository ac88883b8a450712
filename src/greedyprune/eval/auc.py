"""AUC of the order in which a method takes tokens, against the regions that carry the answer, by stage.

For methods that keep the k best by a score (saliency, attention), this is the AUC of that score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from greedyprune.attach.handle import prune
from greedyprune.eval.configs import USUAL
from greedyprune.eval.engine import Batch, Engine, few_logits
from greedyprune.eval.features import shared_features
from greedyprune.eval.items import Item, with_boxes
from greedyprune.eval.loop import make_batches
from greedyprune.eval.stats import auc
from greedyprune.method import Method
from greedyprune.methods.greedyprune import GreedyPrune
from greedyprune.naming import as_method
from greedyprune.stages import Input, Layer, Stage

STAGES: tuple[Stage, ...] = (Input(), Layer(1), Layer(2), Layer(3))
Row = dict[str, object]


def rankings() -> dict[str, Method]:
    """The methods that have an order to measure: the usual ones that look at content and merge nothing."""
    found = {name: as_method(name) for name in USUAL}
    looking = {name: method for name, method in found.items() if method.equivariant and not method.merges}
    return {**looking, "saliency (question mean)": GreedyPrune(tau=1.0, text="question_mean")}


def auc_rows(
    engine: Engine,
    items: Iterable[Item],
    per_task: int = 25,
    batch: int = 32,
    told: Callable[[float], None] = lambda done: None,
) -> list[Row]:
    """One row per method, stage and task: the mean AUC over at most `per_task` questions whose answer has a region.

    `told` gets the number of methods that are done, a share of one after each batch.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    ranked = rankings()
    batches = list(make_batches(engine, with_boxes(items, per_task), batch))
    for number, some in enumerate(batches):
        prepared = engine.prepare(number, some)
        for place, (name, method) in enumerate(ranked.items()):
            told((number * len(ranked) + place) / len(batches))
            for stage in STAGES:
                for item, value in zip(some, _values(engine, prepared, method, stage), strict=False):
                    if not math.isnan(value):
                        found.setdefault((name, str(stage), item.task), []).append(value)
    return [
        {"saliency": name, "stage": stage, "task": task, "n": len(values), "auc": round(sum(values) / len(values), 4)}
        for (name, stage, task), values in sorted(found.items(), key=lambda entry: entry[0])
    ]


def _values(engine: Engine, batch: Batch, method: Method, stage: Stage) -> list[float]:
    """One AUC per question. Empty if this method or this model cannot be cut at this stage."""
    keep = [n - 1 for n in engine.visual_tokens(batch.inputs)]  # the one that is left out ranks last
    try:
        with (
            torch.inference_mode(),
            shared_features(engine.parts, batch.features, method),
            prune(engine.model, method, keep, at=stage) as pruned,
        ):
            engine.model(**batch.inputs, **few_logits(engine.model, engine.parts), use_cache=False)
    except (ValueError, NotImplementedError):
        return []
    values: list[float] = []
    for region, selection in zip(batch.regions, pruned.selections, strict=True):
        score, wanted = torch.zeros(selection.n), torch.zeros(selection.n, dtype=torch.bool)
        score[selection.order.cpu()] = torch.arange(selection.k, 0, -1).float()
        wanted[region] = True
        values.append(auc(score, wanted))
    return values
