"""How the states of a decoder look, layer by layer: what cosines between them have to live with.

    rows = state_rows(Engine(*greedyprune.testbed.load("llava")), Scenes(20, "dev").items())

Language models have directions that all states share, single coordinates that outweigh all others, and a first token
of a great length that attention falls back on (a sink). All three raise cosines without saying anything of content.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from greedyprune.choosing import select
from greedyprune.cues import Cues
from greedyprune.eval.engine import Batch, Engine, few_logits
from greedyprune.eval.items import Item
from greedyprune.eval.loop import make_batches
from greedyprune.eval.reader import entering
from greedyprune.methods.greedyprune import GreedyPrune
from greedyprune.ops.cosine import unit64
from greedyprune.ops.unit_centre import unit_centred
from greedyprune.stages import Input, Layer

RAW, CENTRED = 0.8, 0.95
"""The quantiles of cosines that are told: of the rows as they are, and of unit-centred ones."""
KEPT = 1 / 9
TAU = 0.9
"""The fixed threshold at which two precisions are compared."""
Row = dict[str, object]


def state_rows(engine: Engine, items: Iterable[Item], batch: int = 8) -> list[Row]:
    """Describe the states that enter every decoder layer. -> one row per layer, means over questions

        for row in state_rows(engine, Scenes(4, "dev").items()):
            print(row["layer"], row["common"], row["first_norm"])

    - `norm`: the median length of the visual states; `largest_norm`, `last_norm`, `first_norm`: the longest visual
      state, the last prompt token and the first token of the prompt, in units of it.
    - `peak`: the share of a visual state's squared length that its largest coordinate holds; 1/d if all are equal.
    - `common`: |m|, m the mean of the visual states at length 1. 0: all directions; 1: one direction. `last_common`:
      the cosine of m and the last prompt token.
    - `cosine`, `centred_cosine`: the mean over pairs of visual states, as they are and unit-centred.
    - `tau` and `centred_tau`: the thresholds that are the 0.8 quantile of the first and the 0.95 quantile of the
      second; `tau_sd` and `centred_tau_sd`: their standard deviation between questions.
    - `same`: the share of the ninth that GreedyPrune keeps at τ = 0.9 which it keeps too if cosines are computed in
      bfloat16, as a loop in a bfloat16 model would.

    Raises ValueError if the model is pruned.
    """
    found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    chosen = list(items)
    for number, some in enumerate(make_batches(engine, chosen, batch)):
        prepared = engine.prepare(number, some)
        for layer, states in enumerate(_entering(engine, prepared)):
            for span in prepared.spans:
                valid = prepared.inputs["attention_mask"][span.row].bool().cpu()
                own = states[span.row].double().cpu()
                for name, value in _described(own[span.columns.cpu()], own[valid]).items():
                    found[layer][name].append(value)
    return [_row(layer, values) for layer, values in found.items()]


def _row(layer: int, values: dict[str, list[float]]) -> Row:
    means: Row = {"layer": str(Layer(layer) if layer else Input()), "n": len(next(iter(values.values())))}
    for name, each in values.items():
        given = torch.tensor(each, dtype=torch.float64)
        means[name] = round(float(given.mean()), 4)
        if name.endswith("tau"):
            means[f"{name}_sd"] = round(float(given.std(correction=0)), 4)
    return means


def _described(visual: Tensor, prompt: Tensor) -> dict[str, float]:
    """The numbers of one question. (n, d), (q, d) -> floats"""
    lengths = visual.square().sum(1).sqrt()
    norm = float(lengths.median())
    units, last = unit64(visual), unit64(prompt[-1:])[0]
    mean = units.mean(0)
    raw, centred = _pairs(units), _pairs(unit64(unit_centred(visual, last[None])[0]))
    return {
        "norm": norm,
        "largest_norm": float(lengths.max()) / norm,
        "last_norm": float(prompt[-1].square().sum().sqrt()) / norm,
        "first_norm": float(prompt[0].square().sum().sqrt()) / norm,
        "peak": float(units.square().amax(1).mean()),
        "common": float(mean.square().sum().sqrt()),
        "last_common": float(unit64(mean[None])[0] @ last),
        "cosine": float(raw.mean()),
        "centred_cosine": float(centred.mean()),
        "tau": float(raw.quantile(RAW)),
        "centred_tau": float(centred.quantile(CENTRED)),
        "same": _same(visual, prompt[-1:]),
    }


def _pairs(units: Tensor) -> Tensor:
    """The cosines of all pairs i < j. (n, d) -> (n (n - 1) / 2,)"""
    n = units.shape[0]
    rows, columns = torch.triu_indices(n, n, 1)
    return (units @ units.T)[rows, columns]


def _same(visual: Tensor, text: Tensor) -> float:
    """The share of GreedyPrune's selection that does not depend on the precision of its cosines."""
    k = max(1, round(KEPT * visual.shape[0]))
    exact = select(GreedyPrune(tau=TAU), Cues(visual, text=text), k).rows
    rounded = unit64(visual).bfloat16(), unit64(text).bfloat16()
    worth, alike = (rounded[0] @ rounded[1].T)[:, 0], rounded[0] @ rounded[0].T
    order, kept = worth.sort(descending=True, stable=True).indices.tolist(), list[int]()
    for row in order:
        if len(kept) < k and not any(alike[row, other] > TAU for other in kept):
            kept.append(row)
    kept += [row for row in order if row not in kept][: k - len(kept)]
    return len(set(kept) & set(exact.tolist())) / k


def _entering(engine: Engine, batch: Batch) -> list[Tensor]:
    """The states that enter every decoder layer, from one forward of all tokens. -> (b, q, d) each"""
    found: dict[int, Tensor] = {}
    with torch.inference_mode(), _reading(engine.parts.layers, found):
        engine.model(**batch.inputs, **few_logits(engine.model, engine.parts))
    length = batch.inputs["input_ids"].shape[1]
    if any(states.shape[1] != length for states in found.values()):
        raise ValueError("a pruned model does not show the states of all tokens: undo it (greedyprune.remove(model)).")
    return [found[layer] for layer in sorted(found)]


@contextmanager
def _reading(layers: Any, found: dict[int, Tensor]) -> Iterator[None]:
    """Inside, the states that enter the layers are stored."""

    def read(index: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found[index] = entering(layer, args, kwargs).detach().float()

    handles = [
        layer.register_forward_pre_hook(partial(read, index), with_kwargs=True) for index, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
